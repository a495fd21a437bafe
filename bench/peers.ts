import {
  type Assignment,
  type Bundle,
  bundlesOf,
  domainOf,
  type Instance,
  type Level,
  type Machine,
} from "./mid-size.ts";

/**
 * How schedulers place gangs that never go back on an earlier choice, as plainly as can be: gang after gang, bundle after
 * bundle, each where the way says. All know every rule and what is free on every node; none moves what it has placed.
 */
export const peers = ["firstFit", "sumOnly", "bestFit"] as const;
export type Peer = (typeof peers)[number];

/** Gangs that a way placed, and where; `placed[gang]` is false where one bundle of it found no place. */
export interface PeerAnswer {
  readonly placed: readonly boolean[];
  readonly assignment: Assignment;
}

interface Free {
  gpus: number[];
  cores: number[];
}

/**
 * `firstFit`: pod by pod on the first node by name; the first pod of a set that has to be together decides where.
 * `sumOnly`: the tightest domain whose free GPUs add up to enough, then best fit by node inside.
 * `bestFit`: the tightest domain in which best fit by node finds room for all, whole for the gang as for its slices.
 */
export function placeLike(peer: Peer, instance: Instance): PeerAnswer {
  const bundles = bundlesOf(instance);
  const free: Free = { gpus: instance.machines.map((m) => m.gpus), cores: instance.machines.map((m) => m.cores) };
  const assignment: Map<number, number>[] = bundles.map(() => new Map());
  const everything = [...instance.machines.keys()];
  const inOneUnit = instance.group !== undefined;
  const units = inOneUnit ? [[...instance.gangs.keys()]] : instance.gangs.map((_, gang) => [gang]);
  const placed = instance.gangs.map(() => false);
  for (const unit of units) {
    const region: Region = { bundles, inside: everything };
    const before = structuredClone(free);
    const members = [...bundles.keys()].filter((b) => unit.includes(bundles[b]!.gang));
    const wide = inOneUnit ? instance.group?.within : undefined;
    const whole = placeWithin(peer, instance, free, assignment, region, wide, members, (inside) =>
      unit.every((gang) => {
        const own = members.filter((b) => bundles[b]!.gang === gang);
        const { within } = instance.gangs[gang]!;
        return placeWithin(peer, instance, free, assignment, { ...region, inside }, within, own, (narrower) =>
          own.every((b) => placeBundle(peer, instance, free, assignment, { ...region, inside: narrower }, b)),
        );
      }),
    );
    for (const gang of unit) placed[gang] = whole;
    if (whole) continue;
    Object.assign(free, before);
    for (const b of members) assignment[b]!.clear();
  }
  return { placed, assignment };
}

interface Region {
  readonly bundles: readonly Bundle[];
  readonly inside: readonly number[];
}

/** Chooses a domain of the level for the bundles by the peer's rule and places them there. */
function placeWithin(
  peer: Peer,
  { machines }: Instance,
  free: Free,
  assignment: Map<number, number>[],
  { bundles, inside }: Region,
  level: Level | undefined,
  members: readonly number[],
  place: (inside: readonly number[]) => boolean,
): boolean {
  if (level === undefined) return place(inside);
  const sum = (domain: readonly number[]) => domain.reduce((total, n) => total + free.gpus[n]!, 0);
  const wanted = members.reduce((total, b) => total + bundles[b]!.count * bundles[b]!.pods.gpus, 0);
  const domains = [...Map.groupBy(inside, (n) => domainOf(machines[n]!, level)).values()];
  const enough = domains.filter((domain) => sum(domain) >= wanted);
  if (peer === "firstFit") {
    // The first pod takes the first node that has room for it; the others follow into its domain.
    const first = bundles[members[0]!]!.pods;
    const home = inside.find((n) => fits(free, n, first));
    const domain = domains.find((each) => home !== undefined && each.includes(home));
    return domain !== undefined && place(domain);
  }
  const tightest = enough.toSorted((a, b) => sum(a) - sum(b));
  if (peer === "sumOnly") return tightest.length > 0 && place(tightest[0]!);
  return tightest.some((domain) => {
    const before = structuredClone(free);
    if (place(domain)) return true;
    Object.assign(free, before);
    for (const b of members) assignment[b]!.clear();
    return false;
  });
}

function placeBundle(
  peer: Peer,
  instance: Instance,
  free: Free,
  assignment: Map<number, number>[],
  region: Region,
  b: number,
): boolean {
  const { pods, count, within } = region.bundles[b]!;
  const fill = (inside: readonly number[]): boolean => {
    for (let pod = 0; pod < count; pod++) {
      const able = inside.filter((n) => fits(free, n, pods));
      const node = peer === "firstFit" ? able[0] : able.toSorted((x, y) => free.gpus[x]! - free.gpus[y]! || x - y)[0];
      if (node === undefined) return false;
      free.gpus[node]! -= pods.gpus;
      free.cores[node]! -= pods.cores;
      assignment[b]!.set(node, (assignment[b]!.get(node) ?? 0) + 1);
    }
    return true;
  };
  return placeWithin(peer, instance, free, assignment, region, within, [b], fill);
}

function fits(free: Free, n: number, { gpus, cores }: Pick<Machine, "gpus" | "cores">): boolean {
  return free.gpus[n]! >= gpus && free.cores[n]! >= cores;
}
