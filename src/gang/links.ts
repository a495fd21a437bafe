import type { TopologyLevel } from "../api/cluster-topology.ts";
import type { Fabric } from "../topology/fabric.ts";
import { attributeValue, type DeviceEntry } from "../topology/inventory.ts";
import { builtInTopology } from "../topology/levels.ts";
import type { ModelView } from "../topology/model.ts";
import { type LevelRef, levelsOf } from "./problem.ts";

export type Link = Pick<TopologyLevel, "gigabytesPerSecond" | "microseconds">;

/** A level with the link between ends that share it and no narrower one; without `ref`: ends that share no level. */
export interface LevelLink {
  readonly ref: LevelRef | undefined;
  readonly link: Link;
}

/**
 * Bandwidth of one GPU over NVLink, NVSwitch or XGMI, in 10⁹ bytes per second and one direction: half of what vendors
 * state for both. Assumptions for topologies that give no figures.
 */
const fabricBandwidths: readonly (readonly [product: RegExp, gigabytesPerSecond: number])[] = [
  [/\bG?B[23]00\b/, 900],
  [/\b[AH][12]00\b.*\b(PCIe|NVL)\b/i, 300],
  [/\bH[12]00\b/, 450],
  [/\bMI3\d\dX\b/, 448],
  [/\bA100\b/, 300],
];

/** That of the slowest known: nothing is taken to be fast that nobody vouches for. */
const unknownBandwidth = 300;

function fabricBandwidth(product: string): number {
  return fabricBandwidths.find(([pattern]) => pattern.test(product))?.[1] ?? unknownBandwidth;
}

/** What a device says it is, for example `NVIDIA H100 80GB HBM3`; empty: nothing. */
export function productOf(entry: DeviceEntry): string {
  return attributeValue(entry, `${entry.driver}/productName`)?.replace(/^string:/, "") ?? "";
}

/** The slowest GPU-to-GPU fabric of any node, by what its first device is. */
export function slowestFabric(view: ModelView): number {
  const products = new Set<string>();
  for (const node of view.nodes) {
    const [first] = node ? view.inventory(node.index).devices : [];
    if (first) products.add(productOf(first));
  }
  return slowest(products);
}

/** Of nothing: what is assumed of unknown GPUs. */
export function slowest(products: ReadonlySet<string>): number {
  return Math.min(...[...(products.size > 0 ? products : [""])].map(fabricBandwidth));
}

const builtIn = new Map(builtInTopology.levels.map((level) => [level.name, level]));
const gpuFabricLabels = new Set(builtIn.get("nvlink-domain")!.nodeLabels);

/** Is the level one of GPUs joined directly, which partitions are not? By its name, its labels or its attribute. */
export function isGpuFabric({ kind, level }: LevelRef): boolean {
  const attribute = kind === "device" ? level.attribute : level.inside?.attribute;
  const labels = kind === "device" ? [] : level.nodeLabels;
  return (
    /nvlink|xgmi/i.test(level.name) ||
    labels.some((label) => gpuFabricLabels.has(label)) ||
    /\/(nvlink|xgmi)/i.test(attribute ?? "")
  );
}

/** Has the administrator written no figure at all? Then those of the built-in topology are assumed, level by name. */
export function assumesFigures({ spec }: Fabric): boolean {
  return spec === builtInTopology || [spec.beyond ?? {}, ...spec.levels].every((each) => isEmpty(figures(each)));
}

/**
 * Links of a topology from broad to narrow, for ends that share every level that `shared` tells; the others are left
 * out. A level without figures has those of the next broader one that the ends share: two GPUs of one host are no
 * faster by that than what joins them.
 * @param bandwidth of the GPUs' own fabric, where no ClusterTopology tells it
 */
export function linksOf(fabric: Fabric, shared: (ref: LevelRef) => boolean, bandwidth: number): LevelLink[] {
  const assumed = assumesFigures(fabric);
  const links: LevelLink[] = [
    { ref: undefined, link: figures((assumed ? builtInTopology : fabric.spec).beyond ?? {}) },
  ];
  for (const ref of levelsOf(fabric)) {
    if (!shared(ref)) continue;
    const broader = links.at(-1)!.link;
    links.push({ ref, link: { ...broader, ...(assumed ? assumedFigures(ref, bandwidth) : figures(ref.level.link)) } });
  }
  return links;
}

function assumedFigures(ref: LevelRef, gigabytesPerSecond: number): Link {
  if (isGpuFabric(ref)) return { gigabytesPerSecond, microseconds: ref.kind === "device" ? 1 : 2 };
  return figures(builtIn.get(ref.level.name) ?? {});
}

/** Does the level bring a bandwidth of its own? */
export function hasFigures(fabric: Fabric, ref: LevelRef): boolean {
  return !isEmpty(assumesFigures(fabric) ? assumedFigures(ref, unknownBandwidth) : figures(ref.level.link));
}

function isEmpty(link: Link): boolean {
  return link.gigabytesPerSecond === undefined && link.microseconds === undefined;
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
