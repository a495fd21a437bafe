import type { TopologyLevel } from "../api/cluster-topology.ts";
import type { Fabric } from "../topology/fabric.ts";
import { type LevelRef, levelsOf } from "./problem.ts";

export type Link = Pick<TopologyLevel, "gigabytesPerSecond" | "microseconds">;

/** A level with the link between ends that share it and no narrower one; without `ref`: ends that share no level. */
export interface LevelLink {
  readonly ref: LevelRef | undefined;
  readonly link: Link;
}

/**
 * Links of a topology from broad to narrow, for ends that share every level that `shared` tells; the others are left
 * out. A level without figures has those of the next broader one that the ends share: two GPUs of one host are no
 * faster by that than what joins them.
 */
export function linksOf(fabric: Fabric, shared: (ref: LevelRef) => boolean = () => true): LevelLink[] {
  const links: LevelLink[] = [{ ref: undefined, link: fabric.spec.beyond ?? {} }];
  for (const ref of levelsOf(fabric)) {
    if (!shared(ref)) continue;
    const broader = links.at(-1)!.link;
    links.push({ ref, link: { ...broader, ...figures(ref.level.link) } });
  }
  return links;
}

function figures({ gigabytesPerSecond, microseconds }: Link): Link {
  return {
    ...(gigabytesPerSecond !== undefined && { gigabytesPerSecond }),
    ...(microseconds !== undefined && { microseconds }),
  };
}

/** Time to move `bytes` over a link; undefined: its bandwidth is not known. */
export function linkMilliseconds(link: Link, bytes: number): number | undefined {
  if (link.gigabytesPerSecond === undefined) return undefined;
  return bytes / (link.gigabytesPerSecond * 1e6) + (link.microseconds ?? 0) / 1000;
}
