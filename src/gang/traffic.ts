import type { Fabric } from "../topology/fabric.ts";
import type { ModelView } from "../topology/model.ts";
import { defaultKvBytes, gpusOf, narrowestShared, type PodPlace, podPlace, ringMilliseconds, ringOf } from "./cost.ts";
import { hasFigures, isGpuFabric, type LevelLink, linkMilliseconds, linksOf } from "./links.ts";
import type { PlanUnit } from "./plan.ts";
import type { PreparedUnit } from "./prepare.ts";
import { type LevelRef, ownDevices, type Place, type Problem, type Slot } from "./problem.ts";

type SlotName = Pick<Slot, "gang" | "podSet" | "index">;

/** Pods that talk to each other: a tensor-parallel group, or two gangs of which one hands KV cache to the other. */
export interface Traffic {
  readonly fabric: Fabric;
  /** Equal to `key` for the slots whose pods take part. */
  readonly keyOf: (slot: SlotName) => string | undefined;
  readonly key: string;
  /** Positions of those slots and pins in the problem, and in every other one of the same slots and pins. */
  readonly slots: readonly number[];
  readonly pins: readonly number[];
  readonly milliseconds: (link: LevelLink["link"], devices: number) => number | undefined;
  /** Gangs that take part, in the order in which they do; and what else tells traffic of the same gangs apart. */
  readonly parties: readonly number[];
  readonly label: string;
  /** Traffic of one class differs in nothing but its pods: which of them gets the better place does not matter. */
  readonly class: string;
}

/** What the pods of a unit send, of which some are in the problem. */
export function trafficOf(unit: PreparedUnit, group: PlanUnit["placementGroup"], problem: Problem): Traffic[] {
  return [...unit.gangs.keys()]
    .flatMap((gang) => ringsOf(unit, gang, problem))
    .concat(streamsOf(unit, group, problem))
    .filter(({ slots }) => slots.length > 0);
}

function ringsOf(unit: PreparedUnit, gang: number, problem: Problem): Traffic[] {
  const { request, fabric } = unit.gangs[gang]!;
  const { spec } = request;
  const keyOf = (slot: SlotName) => (slot.gang === gang ? ringOf(spec, slot) : undefined);
  const pins = positionsByKey(problem.pins, keyOf);
  return [...positionsByKey(problem.slots, keyOf)].map(([key, slots]) => {
    const { podSet, index } = problem.slots[slots[0]!]!;
    const outer = spec.podSets.find(({ name }) => name === podSet)?.slices?.at(-2)?.size;
    return {
      fabric,
      keyOf,
      key,
      slots,
      pins: pins.get(key) ?? [],
      milliseconds: ringMilliseconds,
      parties: [gang],
      label: key,
      class: `${gang}/${podSet}/${outer === undefined ? "" : Math.floor(index / outer)}`,
    };
  });
}

function streamsOf(unit: PreparedUnit, group: PlanUnit["placementGroup"], problem: Problem): Traffic[] {
  return (group?.spec.pairing ?? []).flatMap(({ from, to, bytesPerRequest }, i) => {
    const bytes = bytesPerRequest ?? defaultKvBytes;
    const playing = (role: string) => [...unit.gangs.keys()].filter((gang) => unit.gangs[gang]!.role === role);
    const pairs = playing(from).flatMap((sender) => playing(to).map((receiver) => [sender, receiver] as const));
    return pairs.map(([sender, receiver]): Traffic => {
      const key = `${sender}>${receiver}`;
      const keyOf = ({ gang }: SlotName) => (gang === sender || gang === receiver ? key : undefined);
      return {
        fabric: unit.fabric,
        keyOf,
        key,
        slots: positionsByKey(problem.slots, keyOf).get(key) ?? [],
        pins: positionsByKey(problem.pins, keyOf).get(key) ?? [],
        milliseconds: (link) => linkMilliseconds(link, bytes),
        parties: [sender, receiver],
        label: `pairing ${i}`,
        class: key,
      };
    });
  });
}

function positionsByKey(list: readonly SlotName[], keyOf: Traffic["keyOf"]): Map<string, number[]> {
  const positions = new Map<string, number[]>();
  for (const [i, each] of list.entries()) {
    const key = keyOf(each);
    if (key === undefined) continue;
    const known = positions.get(key);
    if (known) known.push(i);
    else positions.set(key, [i]);
  }
  return positions;
}

/** One level that the pods of some traffic could share, and what the traffic costs there, as far as figures tell. */
export interface Option {
  readonly ref: LevelRef | undefined;
  readonly milliseconds: number;
}

/** Traffic as a placement carries it. */
export interface Carried {
  /** From narrow to broad; `ref` undefined: they share nothing. */
  readonly options: readonly Option[];
  /** Position of the option that the placement has; -1: the traffic costs nothing, or nobody knows what. */
  readonly at: number;
}

/** How a placement carries the traffic; `pins` and what was decided before count like the places found. */
export function carry(view: ModelView, traffic: Traffic, pods: readonly PodPlace[]): Carried {
  const { fabric, milliseconds } = traffic;
  const devices = pods.reduce((sum, pod) => sum + pod.devices.length, 0);
  const { peers, bandwidth } = gpusOf(view, pods);
  const usable = (ref: LevelRef) => (peers || !isGpuFabric(ref)) && hasFigures(fabric, ref);
  const options: Option[] = [];
  for (const { ref, link } of linksOf(fabric, usable, bandwidth).toReversed()) {
    const cost = milliseconds(link, devices);
    if (cost === undefined || cost === 0) return { options: [], at: -1 };
    options.push({ ref, milliseconds: cost });
  }
  const level = narrowestShared(view, fabric, pods, usable)?.level;
  return { options, at: options.findIndex(({ ref }) => ref?.level === level) };
}

/** Where the pods of some traffic are: running ones, those placed before, and those that a search placed. */
export function podsOf(problem: Problem, places: readonly Place[], { slots, pins }: Traffic): PodPlace[] {
  const pinned = pins.flatMap((i): PodPlace | readonly PodPlace[] => {
    const { gang: end, podSet, index, node, devices, placed } = problem.pins[i]!;
    if (devices) return { podSet, index, node, devices, end };
    const place = placed && podPlace(problem.view, placed);
    return place === undefined ? [] : { ...place, end };
  });
  const found = slots.map((i): PodPlace => {
    const { gang: end, podSet, index } = problem.slots[i]!;
    const place = places[i]!;
    return { podSet, index, node: place.node, devices: ownDevices(problem.view, place), end };
  });
  return [...pinned, ...found];
}
