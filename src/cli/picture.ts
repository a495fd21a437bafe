import { stripVTControlCharacters } from "node:util";
import { driverName } from "../api/names.ts";
import type { Placement, PlanOutput } from "../api/placement.ts";
import { deviceKey } from "../topology/held.ts";
import type { DeviceEntry, NodeInventory } from "../topology/inventory.ts";
import { attributeValue } from "../topology/inventory.ts";
import { builtInTopology, levelValue } from "../topology/levels.ts";
import { compareNatural } from "../topology/natural-order.ts";
import type { ClaimRecord, NodeRecord } from "../topology/records.ts";
import { type ClusterState, nodeInventories } from "./cluster-state.ts";
import { plural, wrap } from "./text.ts";

export interface PictureOptions {
  /** Columns of the terminal. */
  width: number;
  color: boolean;
  /** Drivers whose devices are drawn. */
  drivers?: readonly string[];
  /** Label that only simulated nodes carry. */
  simulatedLabel: string;
}

/**
 * The cluster as text: rack → NVLink domain → node → GPUs, each GPU a cell with the letter of the gang that holds it.
 * A GPU that is cut into partitions is as many cells as it has memory slices. Nodes and racks where nothing is placed
 * are counted, not drawn.
 */
export function drawPlacements(
  state: Pick<ClusterState, "nodes" | "slices"> & Partial<Pick<ClusterState, "taintRules" | "claims">>,
  output: PlanOutput,
  options: PictureOptions,
): string {
  const ink = createInk(output.placements, state.claims ?? [], options.color);
  const drivers = new Set(options.drivers ?? [driverName]);
  const inventories = nodeInventories(state);
  const views = state.nodes
    .map((node) => nodeView(node, inventories.get(node.name)!, drivers, ink))
    .sort(
      (a, b) => compareNatural(a.rack, b.rack) || compareNatural(a.nvlink, b.nvlink) || compareNatural(a.name, b.name),
    );
  const groups = [...Map.groupBy(views, (view) => `${view.rack}\0${view.nvlink}`).values()];
  const sections = [
    title(state.nodes, views, options),
    groupLines(groups, options.width).join("\n"),
    legend(output, views, ink, options.width),
  ];
  return `${sections.filter((section) => section !== "").join("\n\n")}\n`;
}

// ---- Letters and colours -------------------------------------------------------------------------------------------

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/** Of the 256-colour palette, readable on dark and on light ground. */
const colors = [33, 166, 34, 162, 37, 136, 99, 160, 65, 69, 172, 127];
const freeCell = "·";
const lostCell = "x";
/** Held by a claim of which no placement tells, such as one whose pods are not known. */
const otherCell = "*";

interface Ink {
  letterOf(placement: Placement): string;
  /** Letters of the gangs that hold a device; empty: free. */
  holders(device: DeviceEntry): readonly string[];
  /** Letters of the gangs with a pod on the node. */
  onNode(name: string): readonly string[];
  paint(letter: string): string;
  faint(text: string): string;
  bold(text: string): string;
}

function createInk(placements: readonly Placement[], claims: readonly ClaimRecord[], color: boolean): Ink {
  const letterOf = new Map(placements.map((placement, index) => [placement, letters[index] ?? "#"]));
  const holders = new Map<string, string[]>();
  const onNode = new Map<string, string[]>();
  const note = (map: Map<string, string[]>, key: string, letter: string): void => {
    const known = map.get(key) ?? [];
    if (!known.includes(letter)) map.set(key, [...known, letter]);
  };
  for (const [placement, letter] of letterOf) {
    for (const pod of placement.pods) {
      note(onNode, pod.node, letter);
      for (const { driver, pool, device } of pod.claims.flatMap((claim) => claim.devices)) {
        note(holders, deviceKey(driver, pool, device), letter);
      }
    }
  }
  for (const { driver, pool, device, adminAccess } of claims.flatMap(
    (claim) => claim.allocation?.devices?.results ?? [],
  )) {
    const key = deviceKey(driver, pool, device);
    if (adminAccess !== true && !holders.has(key)) holders.set(key, [otherCell]);
  }
  const style = (code: string, text: string): string => (color ? `\u001b[${code}m${text}\u001b[0m` : text);
  return {
    letterOf: (placement) => letterOf.get(placement) ?? "#",
    holders: (device) => holders.get(device.key) ?? [],
    onNode: (name) => onNode.get(name) ?? [],
    paint(letter) {
      if (letter === freeCell) return style("2", letter);
      if (letter === lostCell) return style("1;31", letter);
      const index = letters.indexOf(letter);
      return index < 0 ? letter : style(`1;38;5;${colors[index % colors.length]}`, letter);
    },
    faint: (text) => style("2", text),
    bold: (text) => style("1", text),
  };
}

// ---- Nodes ---------------------------------------------------------------------------------------------------------

interface NodeView {
  name: string;
  /** Path of the rack: two racks of one name in two blocks are two. */
  rack: string;
  /** NVLink domain that spans nodes; empty: none. */
  nvlink: string;
  /** What the nodes of a group have in common, in words. */
  kind: string;
  gpus: number;
  usedGpus: number;
  used: boolean;
  /** Name and cells, as drawn. */
  text: string;
}

function nodeView(node: NodeRecord, inventory: NodeInventory, drivers: ReadonlySet<string>, ink: Ink): NodeView {
  const gpus = [...Map.groupBy(ofDrivers(inventory, drivers), (device) => device.group).values()].sort((a, b) =>
    compareNatural(a[0]!.name, b[0]!.name),
  );
  const usedGpus = gpus.filter((devices) => devices.some((device) => ink.holders(device).length > 0)).length;
  const here = ink.onNode(node.name);
  const withoutDevice = here.filter((letter) => !gpus.flat().some((device) => ink.holders(device).includes(letter)));
  const nvlink = levelOf(node, "nvlink-domain");
  const notes = [
    ...(withoutDevice.length === 0 ? [] : [`+${withoutDevice.map(ink.paint).join("")}`]),
    ...(node.ready ? [] : ["not ready"]),
  ];
  return {
    name: node.name,
    rack: [levelOf(node, "block"), levelOf(node, "rack")].filter((name) => name !== "").join("/"),
    nvlink,
    kind: nodeKind(gpus, nvlink),
    gpus: gpus.length,
    usedGpus,
    used: here.length > 0 || usedGpus > 0,
    text: [`${node.name} ${drawGpus(gpus, ink)}`, ...notes].join(" "),
  };
}

function ofDrivers(inventory: NodeInventory, drivers: ReadonlySet<string>): DeviceEntry[] {
  return inventory.devices.filter((device) => drivers.has(device.driver));
}

function levelOf(node: NodeRecord, name: string): string {
  const level = builtInTopology.levels.find((each) => each.name === name);
  return levelValue(level?.nodeLabels ?? [], node) ?? "";
}

const nvlinkAttribute = `${driverName}/nvlinkDomain`;
const productAttribute = `${driverName}/productName`;

function nodeKind(gpus: readonly DeviceEntry[][], nvlink: string): string {
  const first = gpus[0]?.[0];
  if (first === undefined) return "no GPU";
  const product = attributeValue(first, productAttribute)?.replace(/^string:/, "") ?? first.driver;
  const domains = new Set(gpus.map((devices) => attributeValue(devices[0]!, nvlinkAttribute)));
  const links = nvlink !== "" ? "" : domains.has(undefined) ? ", no NVLink" : nvlinkText(domains.size);
  return `${gpus.length} ${product}${gpus.some((devices) => devices.length > 1) ? " with MIG" : ""}${links}`;
}

function nvlinkText(domains: number): string {
  return domains === 1 ? ", each an NVLink domain" : `, each ${domains} NVLink domains`;
}

/** `[A A|· ·]`: a bar where NVLink does not reach. */
function drawGpus(gpus: readonly DeviceEntry[][], ink: Ink): string {
  let text = "";
  let before: string | undefined;
  for (const [position, devices] of gpus.entries()) {
    const domain = attributeValue(devices[0]!, nvlinkAttribute);
    if (position > 0) text += domain === before ? " " : "|";
    before = domain;
    text += drawGpu(devices, ink);
  }
  return `[${text}]`;
}

/** One letter for a whole GPU, one per memory slice for a GPU that is cut. */
function drawGpu(devices: readonly DeviceEntry[], ink: Ink): string {
  const taken = devices.filter((device) => ink.holders(device).length > 0);
  if (taken.length === 0) return ink.paint(devices.some(isLost) ? lostCell : freeCell);
  const slices = [...new Set(devices.flatMap(memorySlices))].sort((a, b) => a - b);
  const whole = taken.find((device) => memorySlices(device).length === slices.length);
  if (whole !== undefined) return ink.paint(ink.holders(whole)[0]!);
  const cells = slices.map((slice) => {
    const holder = taken.find((device) => memorySlices(device).includes(slice));
    return ink.paint(holder === undefined ? freeCell : ink.holders(holder)[0]!);
  });
  return cells.join("");
}

function isLost({ device }: DeviceEntry): boolean {
  return device.taints?.some(({ effect }) => effect === "NoExecute" || effect === "NoSchedule") ?? false;
}

/** Numbers of the memory slices that a partition takes, by the counters that drivers publish for MIG. */
function memorySlices({ device }: DeviceEntry): number[] {
  const counters = (device.consumesCounters ?? []).flatMap((consumed) => Object.keys(consumed.counters));
  return counters.flatMap((name) => {
    const slice = /^memory-slice-(\d+)$/.exec(name)?.[1];
    return slice === undefined ? [] : [Number(slice)];
  });
}

// ---- Racks ---------------------------------------------------------------------------------------------------------

/** Groups in use with their nodes; runs of equal groups without use in one line. */
function groupLines(groups: readonly NodeView[][], width: number): string[] {
  const lines: string[] = [];
  let idle: NodeView[][] = [];
  const flush = (): void => {
    if (idle.length > 0) lines.push(idleLine(idle, width));
    idle = [];
  };
  for (const group of groups) {
    const used = group.some((view) => view.used);
    if (used || (idle.length > 0 && sameKind(idle[0]!, group) === false)) flush();
    if (used) lines.push(...usedLines(group, width));
    else idle.push(group);
  }
  flush();
  return lines;
}

function sameKind(a: readonly NodeView[], b: readonly NodeView[]): boolean {
  return kindOf(a) === kindOf(b) && (a[0]!.nvlink === "") === (b[0]!.nvlink === "");
}

function kindOf(group: readonly NodeView[]): string {
  return [...new Set(group.map((view) => view.kind))].join(" or ");
}

function idleLine(groups: readonly NodeView[][], width: number): string {
  const nodes = groups.flat();
  const racks = [...new Set(nodes.map((view) => view.rack))];
  const names = racks.length === 1 ? rackName(racks[0]!) : `racks ${racks[0]} … ${racks.at(-1)}`;
  const domains = nodes[0]!.nvlink === "" ? "" : `, ${plural(groups.length, "NVLink domain")}`;
  return spread(names, `${plural(nodes.length, "node")} × ${kindOf(groups[0]!)}${domains}`, "free", width);
}

function rackName(path: string): string {
  return path === "" ? "no rack" : `rack ${path}`;
}

function usedLines(group: readonly NodeView[], width: number): string[] {
  const first = group[0]!;
  const gpus = group.reduce((sum, view) => sum + view.gpus, 0);
  const used = group.reduce((sum, view) => sum + view.usedGpus, 0);
  const domain = first.nvlink === "" ? "" : `, NVLink domain ${shortened(first.nvlink)}`;
  const head = spread(
    rackName(first.rack),
    `${plural(group.length, "node")} × ${kindOf(group)}${domain}`,
    `${used} of ${gpus} GPUs used`,
    width,
  );
  const shown = group.filter((view) => view.used);
  const free = group.filter((view) => !view.used);
  return [
    head,
    ...inColumns(
      shown.map((view) => view.text),
      width,
    ),
    ...freeLine(free),
  ];
}

function freeLine(free: readonly NodeView[]): string[] {
  if (free.length === 0) return [];
  const names = free.length <= 2 ? free.map((view) => view.name).join(", ") : `${free[0]!.name} … ${free.at(-1)!.name}`;
  return [`  ${plural(free.length, "more node")} free: ${names}`];
}

/** UUIDs say nothing to people: their beginning tells two apart. */
function shortened(name: string): string {
  return name.length <= 24 ? name : `${name.slice(0, 8)}…`;
}

/** Left, middle, right: the right end at `width`, as far as there is room. */
function spread(left: string, middle: string, right: string, width: number): string {
  const start = `${left.padEnd(20)}  ${middle}`;
  return `${start}${" ".repeat(Math.max(2, width - visible(start) - visible(right)))}${right}`;
}

function inColumns(cells: readonly string[], width: number): string[] {
  const column = Math.max(...cells.map(visible)) + 2;
  const perLine = Math.max(1, Math.floor((width - 2) / column));
  const lines: string[] = [];
  for (let start = 0; start < cells.length; start += perLine) {
    const line = cells.slice(start, start + perLine).map((cell) => cell + " ".repeat(column - visible(cell)));
    lines.push(`  ${line.join("").trimEnd()}`);
  }
  return lines;
}

function visible(text: string): number {
  return stripVTControlCharacters(text).length;
}

// ---- Title and legend ----------------------------------------------------------------------------------------------

function title(nodes: readonly NodeRecord[], views: readonly NodeView[], options: PictureOptions): string {
  const simulated = nodes.filter((node) => node.labels[options.simulatedLabel] !== undefined).length;
  const gpus = views.reduce((sum, view) => sum + view.gpus, 0);
  const used = views.reduce((sum, view) => sum + view.usedGpus, 0);
  const counts = `${plural(nodes.length, "node")}, ${plural(gpus, "GPU")}, ${used} in use`;
  if (simulated === 0) return counts;
  const which = simulated === nodes.length ? "Nodes and GPUs" : `${simulated} of the nodes, with their GPUs,`;
  return wrap(
    `${counts}. ${which} are simulated: they exist as objects of the Kubernetes API only, and no model runs.`,
    options.width,
    "",
  );
}

function legend(output: PlanOutput, views: readonly NodeView[], ink: Ink, width: number): string {
  const rows = output.placements.map((placement) => ({
    letter: ink.letterOf(placement),
    name: `${placement.namespace}/${placement.gang}`,
    size: sizeText(placement),
    where: whereText(placement),
  }));
  const nameWidth = Math.max(0, ...rows.map((row) => row.name.length));
  const sizeWidth = Math.max(0, ...rows.map((row) => row.size.length));
  const lines = rows.map(({ letter, name, size, where }) =>
    `  ${ink.paint(letter)} ${name.padEnd(nameWidth)}  ${size.padEnd(sizeWidth)}  ${where}`.trimEnd(),
  );
  const rejected = output.rejections.map((rejection) =>
    wrap(
      `${rejection.namespace}/${rejection.gang}: ${rejection.reason}: ${rejection.message}`,
      width - 4,
      "    ",
    ).replace("    ", "  - "),
  );
  return [
    ...(lines.length === 0 ? [] : [ink.bold("Placed"), ...lines]),
    ...(rejected.length === 0 ? [] : [ink.bold("Not placed"), ...rejected]),
    ink.faint(cellsText(views)),
  ].join("\n");
}

function cellsText(views: readonly NodeView[]): string {
  const plain = views.filter((view) => view.used).map((view) => stripVTControlCharacters(view.text));
  const parts = [`${freeCell} free`];
  if (plain.some((text) => text.includes("|"))) parts.push("| NVLink ends");
  if (plain.some((text) => text.includes(otherCell))) parts.push(`${otherCell} held by others`);
  if (plain.some((text) => text.includes(lostCell))) parts.push(`${lostCell} lost`);
  if (plain.some((text) => /\[.*[^\][ |]{2}.*\]/.test(text))) {
    parts.push("several cells without a space: one GPU, cut into memory slices by MIG");
  }
  return `Cells: ${parts.join(", ")}.`;
}

/** `2 pods × 4 GPUs`; where pods differ, the totals. */
function sizeText(placement: Placement): string {
  const perPod = placement.pods.map((pod) => pod.claims.reduce((sum, claim) => sum + claim.devices.length, 0));
  const pods = plural(placement.pods.length, "pod");
  const [count, ...others] = new Set(perPod);
  if (others.length === 0) return `${pods} × ${plural(count ?? 0, "device")}`;
  return `${pods}, ${plural(
    perPod.reduce((sum, devices) => sum + devices, 0),
    "device",
  )}`;
}

/** Nodes, and the narrowest domain that all pods share. */
function whereText(placement: Placement): string {
  const nodes = [...new Set(placement.pods.map((pod) => pod.node))];
  const group =
    placement.placementGroup === undefined ? "" : `${placement.role ?? "member"} of ${placement.placementGroup}`;
  if (nodes.length === 1) return [`on ${nodes[0]}`, group].filter((text) => text !== "").join(", ");
  const narrowest = Object.entries(placement.domains).at(-1);
  const shared = narrowest === undefined ? "" : `in ${narrowest[0]} ${shortened(narrowest[1].split("/").at(-1)!)}`;
  return [`on ${nodes.length} nodes`, shared, group].filter((text) => text !== "").join(", ");
}
