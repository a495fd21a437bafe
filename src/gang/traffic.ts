import type { Fabric } from "../topology/fabric.ts";
import type { ModelView } from "../topology/model.ts";
import { defaultKvBytes, gpusOf, narrowestShared, type PodPlace, podPlace, ringMilliseconds, ringOf } from "./cost.ts";
import { hasFigures, isGpuFabric, type LevelLink, linkMilliseconds, linksOf } from "./links.ts";
import type { PlanUnit } from "./plan.ts";
import type { PreparedUnit } from "./prepare.ts";
import type { LevelRef, Place, Problem, Slot } from "./problem.ts";

type SlotName = Pick<Slot, "gang" | "podSet" | "index">;

/** Pods that talk to each other: a tensor-parallel group, or two gangs of which one hands KV cache to the other. */
export interface Traffic {
  readonly fabric: Fabric;
  readonly covers: (slot: SlotName) => boolean;
  readonly milliseconds: (link: LevelLink["link"], devices: number) => number | undefined;
  /** Traffic of one class differs in nothing but its pods: which of them gets the better place does not matter. */
  readonly class: string;
}

/** What the pods of a unit send, of which some are in the problem. */
export function trafficOf(unit: PreparedUnit, group: PlanUnit["placementGroup"], problem: Problem): Traffic[] {
  const found: Traffic[] = [];
  for (const [gang, { request, fabric }] of unit.gangs.entries()) {
    const { spec } = request;
    const mine = problem.slots.filter((slot) => slot.gang === gang);
    for (const ring of new Set(mine.map((slot) => ringOf(spec, slot)))) {
      const [first] = mine.filter((slot) => ringOf(spec, slot) === ring);
      const outer = spec.podSets.find(({ name }) => name === first!.podSet)?.slices?.at(-2)?.size;
      found.push({
        fabric,
        covers: (slot) => slot.gang === gang && ringOf(spec, slot) === ring,
        milliseconds: ringMilliseconds,
        class: `${gang}/${first!.podSet}/${outer === undefined ? "" : Math.floor(first!.index / outer)}`,
      });
    }
  }
  for (const { from, to, bytesPerRequest } of group?.spec.pairing ?? []) {
    const bytes = bytesPerRequest ?? defaultKvBytes;
    for (const [sender, { role }] of unit.gangs.entries()) {
      for (const [receiver, other] of unit.gangs.entries()) {
        if (role !== from || other.role !== to) continue;
        found.push({
          fabric: unit.fabric,
          covers: ({ gang }) => gang === sender || gang === receiver,
          milliseconds: (link) => linkMilliseconds(link, bytes),
          class: `${sender}>${receiver}`,
        });
      }
    }
  }
  return found;
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
export function carry(view: ModelView, traffic: Traffic, problem: Problem, pods: readonly PodPlace[]): Carried {
  const { fabric, milliseconds } = traffic;
  const devices = pods.reduce((sum, pod) => sum + pod.devices.length, 0);
  const { peers, bandwidth } = gpusOf(view, pods);
  const usable = (ref: LevelRef) => (peers || !isGpuFabric(ref)) && hasFigures(fabric, ref);
  const options: Option[] = [];
  for (const { ref, link } of linksOf(fabric, usable, bandwidth).toReversed()) {
    const cost = milliseconds(link, devices);
    if (cost === undefined || cost === 0 || !problem.slots.some(traffic.covers)) return { options: [], at: -1 };
    options.push({ ref, milliseconds: cost });
  }
  const level = narrowestShared(view, fabric, pods, usable)?.level;
  return { options, at: options.findIndex(({ ref }) => ref?.level === level) };
}

/** Where the pods of some traffic are: running ones, those placed before, and those that a search placed. */
export function podsOf(problem: Problem, places: readonly Place[], { covers }: Traffic): PodPlace[] {
  const pinned = problem.pins.flatMap((pin): PodPlace[] => {
    if (!covers(pin)) return [];
    const { podSet, index, node, devices, placed } = pin;
    if (devices) return [{ podSet, index, node, devices }];
    return placed ? [podPlace(problem.view, placed) ?? []].flat() : [];
  });
  const found = problem.slots.flatMap((slot, i): PodPlace[] => {
    if (!covers(slot)) return [];
    const { node, choice } = places[i]!;
    const devices = choice.claims.flatMap((claim) => claim.devices.map(({ device }) => device));
    return [{ podSet: slot.podSet, index: slot.index, node, devices }];
  });
  return [...pinned, ...found];
}
