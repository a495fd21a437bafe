import type { GangConstraint } from "../../src/api/gang.ts";

/**
 * A naive planner, written from what the fields of a Gang mean: every node and every set of devices for every pod.
 * Shares no code with the planner. What it remembers is where it has been before, nothing else.
 */

/** Broad to narrow. `island` is told by a label, on hosts without it by the NUMA node of devices. */
const oracleLevels = ["zone", "rack", "island", "host", "numa", "pair"] as const;
export type OracleLevel = (typeof oracleLevels)[number];

export interface OracleDevice {
  name: string;
  /** `gpu`, or the profile of a partition. */
  what: string;
  index: number;
  numa: string | undefined;
  /** NVLink bridge or island. */
  pair: string | undefined;
  /** Board whose counters it takes. */
  board: number | undefined;
  compute: number;
  /** Memory slices, one bit each. */
  memory: number;
  /** Whose product a GPU is. */
  maker?: "NVIDIA" | "AMD";
  /** Only who tolerates it may have it. */
  tainted?: boolean;
  /** Given in parts, so many at a time at most. */
  units?: number;
  /** Number of a device that other nodes reach, too: the same one wherever it has the same number. All are of one board. */
  common?: number;
}

export interface OracleNode {
  name: string;
  zone: string | undefined;
  rack: string | undefined;
  island: string | undefined;
  ssd: boolean;
  tainted: boolean;
  /** Cordoned, or not ready. */
  down: boolean;
  /** What is left of the node beside its neighbours. */
  cpu: number;
  memory: number;
  pods: number;
  devices: OracleDevice[];
  /** Devices that others hold, one bit each. */
  held: number;
  /** The node, if the gang beside the unit's own were gone; if nothing ran there. */
  withoutNeighbour?: Pick<OracleNode, "cpu" | "pods" | "held">;
  emptied?: Pick<OracleNode, "cpu" | "pods" | "held">;
}

/**
 * One of the alternatives satisfies a request; `part` is a partition of any profile, `even` a GPU of even index, `fast` a
 * common device of even index, `low` one of the first two, `any` a GPU or a common device, `amd` a GPU of AMD's. `units` of
 * each device, where it is given in parts.
 */
export interface OracleRequest {
  claim: number;
  /** `number`: all are as many; left out: however many. */
  alternatives: { what: string; count: number | "all"; units: number; number?: number }[];
}

export interface OraclePod {
  name: string;
  gang: string;
  role: string;
  podSet: string;
  index: number;
  cpu: number;
  memory: number;
  tolerates: boolean;
  wantsSsd: boolean;
  toleratesDevices: boolean;
  requests: OracleRequest[];
  /** Attribute that all devices of one claim share. */
  match: "numa" | "pair" | undefined;
  /** Runs there already, on these devices, and takes nothing more. */
  pinned?: OraclePlace;
}

/** Pods by `covers` share a domain of the level, or are spread over it. */
export interface OracleRule {
  type: GangConstraint["type"];
  level: OracleLevel;
  maxSkew: number;
  required: boolean;
  covers: (pod: OraclePod) => boolean;
  /** Splits the covered pods into sets of their own. */
  part: (pod: OraclePod) => string;
}

/** Where a pod is: node, and devices there, by position. */
export interface OraclePlace {
  node: number;
  devices: readonly number[];
}

/** Thrown when there is too much to try. */
export const tooMuch = Symbol("too much to try");

/** Whole path of the node's domain; undefined: the node lacks the label. */
function domainPath(node: OracleNode, level: OracleLevel): string | undefined {
  const values: Record<string, string | undefined> = {
    zone: node.zone,
    rack: node.rack,
    island: node.island,
    host: node.name,
  };
  if (values[level] === undefined) return undefined;
  const path = oracleLevels.slice(0, oracleLevels.indexOf(level) + 1).map((each) => values[each] ?? "-");
  return path.join("/");
}

function toldByDevices(node: OracleNode): boolean {
  return node.devices.some(({ numa }) => numa !== undefined);
}

/**
 * The domain of the level that pods at these places share, in words; undefined: they share none. Pods without devices
 * have the host alone in common.
 */
function sharedDomain(
  nodes: readonly OracleNode[],
  places: readonly OraclePlace[],
  level: OracleLevel,
): string | undefined {
  const [first] = places;
  if (first === undefined) return "";
  const path = domainPath(nodes[first.node]!, level);
  if (path !== undefined) {
    return places.every(({ node }) => domainPath(nodes[node]!, level) === path) ? path : undefined;
  }
  if (level !== "island" && level !== "numa" && level !== "pair") return undefined;
  const host = nodes[first.node]!;
  if (places.some(({ node }) => node !== first.node) || (level === "island" && !toldByDevices(host))) return undefined;
  const attribute = level === "pair" ? "pair" : "numa";
  const values = new Set(places.flatMap(({ devices }) => devices.map((device) => host.devices[device]![attribute])));
  if (values.size > 1 || values.has(undefined)) return undefined;
  return `${host.name}:${[...values][0] ?? "?"}`;
}

/** The domain that a spread counts a pod in: inside unlabelled hosts domains are not told apart. */
function spreadPath(node: OracleNode, level: OracleLevel): string | undefined {
  return domainPath(node, level) ?? (level === "island" && toldByDevices(node) ? `host ${node.name}` : undefined);
}

function admits(node: OracleNode, pod: OraclePod): boolean {
  return !node.down && (!node.tainted || pod.tolerates) && (node.ssd || !pod.wantsSsd);
}

/** Pods that a rule holds together or apart: positions in the list. */
interface RuleSet {
  rule: OracleRule;
  members: number[];
}

/** A rule binds pods to come; sets of pods that run already may stay as they are. */
function setsOf(pods: readonly OraclePod[], rules: readonly OracleRule[]): RuleSet[] {
  return rules.flatMap((rule) => {
    const sets = new Map<string, number[]>();
    for (const [i, pod] of pods.entries()) {
      if (rule.covers(pod)) sets.set(rule.part(pod), [...(sets.get(rule.part(pod)) ?? []), i]);
    }
    return [...sets.values()]
      .filter((members) => members.some((i) => pods[i]!.pinned === undefined))
      .map((members) => ({ rule, members }));
  });
}

/** Is the spread even enough? `places` has one for every member. */
function evenEnough(
  nodes: readonly OracleNode[],
  pods: readonly OraclePod[],
  places: readonly (OraclePlace | undefined)[],
  sets: readonly RuleSet[],
  { rule, members }: RuleSet,
): boolean {
  const free = members.filter((i) => pods[i]!.pinned === undefined);
  if (free.some((i) => spreadPath(nodes[places[i]!.node]!, rule.level) === undefined)) return false;
  // A spread is over the domains inside those that hold all its pods together by another, broader, required rule.
  const around = sets.filter(
    (other) =>
      other.rule.required &&
      other.rule.type === "colocate" &&
      oracleLevels.indexOf(other.rule.level) < oracleLevels.indexOf(rule.level) &&
      members.every((i) => other.members.includes(i)),
  );
  const home = nodes[places[members[0]!]!.node]!;
  const counts = new Map<string, number>();
  for (const node of nodes) {
    const path = spreadPath(node, rule.level);
    const inside = around.every((other) => spreadPath(node, other.rule.level) === spreadPath(home, other.rule.level));
    if (path !== undefined && inside && free.some((i) => admits(node, pods[i]!))) counts.set(path, 0);
  }
  for (const i of members) {
    const path = spreadPath(nodes[places[i]!.node]!, rule.level);
    if (path !== undefined) counts.set(path, (counts.get(path) ?? 0) + 1);
  }
  return Math.max(...counts.values()) - Math.min(...counts.values()) <= rule.maxSkew;
}

/** The first rule that an assignment (parallel to `pods`) breaks; undefined: it breaks none. */
export function brokenRule(
  nodes: readonly OracleNode[],
  pods: readonly OraclePod[],
  places: readonly OraclePlace[],
  rules: readonly OracleRule[],
): string | undefined {
  const sets = setsOf(pods, rules);
  const broken = sets.find((set) => {
    if (set.rule.type === "spread") return !evenEnough(nodes, pods, places, sets, set);
    const at = set.members.map((i) => places[i]!);
    return sharedDomain(nodes, at, set.rule.level) === undefined;
  });
  return broken && `${broken.rule.type} ${broken.rule.level} of ${broken.members.map((i) => pods[i]!.name).join()}`;
}

/** What is left of a node. */
interface Left {
  cpu: number;
  memory: number;
  pods: number;
  held: number;
  /** Per board: compute slices left, memory slices taken. */
  boards: [number, number][];
  /** Of devices that are given in parts, what is left, by position. */
  units: number[];
  /** What all nodes have in common. */
  common: CommonLeft;
}

/** Devices that are held, one bit each; compute slices left of their board and memory slices taken; units taken, by number. */
interface CommonLeft {
  held: number;
  board: [number, number];
  units: Record<number, number>;
}

function commonLeft(): CommonLeft {
  return { held: 0, board: [7, 0], units: {} };
}

/** Of one node: texts are equal when the same is left. */
function leftText({ cpu, memory, pods, held, boards, units }: Left): string {
  return `${cpu} ${memory} ${pods} ${held} ${boards} ${units}`;
}

function commonText({ held, board, units }: CommonLeft): string {
  const taken = Object.entries(units).filter(([, amount]) => amount > 0);
  return `${held} ${board} ${taken}`;
}

/** What one pod takes of a device that is given in parts. */
function unitsOf({ requests }: OraclePod): number {
  return Math.max(0, ...requests.flatMap(({ alternatives }) => alternatives.map(({ units }) => units)));
}

function takeDevice(left: Left, device: OracleDevice, position: number, by: 1 | -1, units: number): void {
  if (device.common !== undefined) {
    takeCommon(left.common, device.common, device, by, units);
    return;
  }
  if (device.units !== undefined) {
    left.units[position]! -= by * units;
    return;
  }
  left.held ^= 1 << position;
  if (device.board === undefined) return;
  const board = left.boards[device.board]!;
  board[0] -= by * device.compute;
  board[1] ^= device.memory;
}

function takeCommon(left: CommonLeft, number: number, device: OracleDevice, by: 1 | -1, units: number): void {
  if (device.units !== undefined) {
    left.units[number] = (left.units[number] ?? 0) + by * units;
    return;
  }
  left.held ^= 1 << number;
  left.board[0] -= by * device.compute;
  left.board[1] ^= device.memory;
}

function isCommonFree({ held, board, units: taken }: CommonLeft, number: number, device: OracleDevice, units: number) {
  if (device.units !== undefined) return (taken[number] ?? 0) + units <= device.units;
  return (held & (1 << number)) === 0 && board[0] >= device.compute && (board[1] & device.memory) === 0;
}

function isFree(left: Left, device: OracleDevice, position: number, units: number): boolean {
  if (device.common !== undefined) return isCommonFree(left.common, device.common, device, units);
  if (device.units !== undefined) return left.units[position]! >= units;
  if ((left.held & (1 << position)) !== 0) return false;
  if (device.board === undefined) return true;
  const [compute, taken] = left.boards[device.board]!;
  return compute >= device.compute && (taken & device.memory) === 0;
}

/** Of nodes that reach the same devices. */
export function leftsOf(nodes: readonly OracleNode[]): Left[] {
  const common = commonLeft();
  return nodes.map((node) => ({ ...leftOf(node), common }));
}

export function leftOf(node: OracleNode): Left {
  const boards = 1 + Math.max(-1, ...node.devices.map(({ board }) => board ?? -1));
  const left: Left = {
    cpu: node.cpu,
    memory: node.memory,
    pods: node.pods,
    held: 0,
    boards: Array.from({ length: boards }, () => [7, 0]),
    units: node.devices.map(({ units = 0 }) => units),
    common: commonLeft(),
  };
  for (const [position, device] of node.devices.entries()) {
    if ((node.held & (1 << position)) !== 0) takeDevice(left, device, position, 1, 0);
  }
  return left;
}

function wanted({ what, index, board, maker }: OracleDevice, kind: string): boolean {
  if (kind === "amd") return what === "gpu" && maker === "AMD";
  if (kind === "part") return board !== undefined && what !== "gpu";
  if (kind === "fast") return what === "wide" && index % 2 === 0;
  if (kind === "low") return what === "wide" && index < 2;
  if (kind === "any") return what === "gpu" || what === "wide";
  if (kind === "even") return what === "gpu" && index % 2 === 0;
  return what === kind;
}

/** What an alternative selects on a node and may give the pod, whoever holds it: positions. */
export function selectedOn({ devices }: OracleNode, pod: OraclePod, what: string): number[] {
  return [...devices.keys()].filter((i) => {
    return wanted(devices[i]!, what) && (devices[i]!.tainted !== true || pod.toleratesDevices);
  });
}

/** Every set of devices that satisfies the pod's claims; of sets that nobody can tell apart, one. */
export function deviceSets(node: OracleNode, left: Left, pod: OraclePod): number[][] {
  const found = new Map<string, number[]>();
  const taken: { position: number; claim: number }[] = [];
  const classOf = (position: number) => {
    const { what, index, numa, pair, board, maker, tainted, common } = node.devices[position]!;
    const alike = `${what} ${maker} ${index % 2} ${numa} ${pair} ${tainted} ${left.units[position]}`;
    return board === undefined && common === undefined ? alike : `#${position}`;
  };
  const matches = () => {
    const { match } = pod;
    if (match === undefined) return true;
    const valueAt = (position: number) => node.devices[position]![match];
    return taken.every(({ position, claim }) => {
      const value = valueAt(position);
      return value !== undefined && taken.every((o) => o.claim !== claim || valueAt(o.position) === value);
    });
  };
  const units = unitsOf(pod);
  const next = (request: number, alternative: number, missing: number, from: number): void => {
    if (!matches()) return;
    const { claim, alternatives } = pod.requests[request] ?? { claim: 0, alternatives: [] };
    if (request === pod.requests.length) {
      const positions = taken.map(({ position }) => position);
      const key = positions.map(classOf).sort().join();
      if (!found.has(key)) found.set(key, positions);
      return;
    }
    if (alternative < 0) {
      for (const [i, { what, count, number }] of alternatives.entries()) {
        const all = selectedOn(node, pod, what).length;
        // All means all: where one may not be given, there is no such set.
        const there = node.devices.filter((device) => wanted(device, what)).length;
        if (count !== "all") next(request, i, count, 0);
        else if (all > 0 && all === there && all === (number ?? all)) next(request, i, all, 0);
      }
      return;
    }
    if (missing === 0) {
      next(request + 1, -1, 0, 0);
      return;
    }
    for (const position of selectedOn(node, pod, alternatives[alternative]!.what)) {
      const device = node.devices[position]!;
      if (position < from || !isFree(left, device, position, units)) continue;
      takeDevice(left, device, position, 1, units);
      taken.push({ position, claim });
      next(request, alternative, missing - 1, position + 1);
      taken.pop();
      takeDevice(left, device, position, -1, units);
    }
  };
  next(0, -1, 0, 0);
  return [...found.values()];
}

/** Puts a pod on a node and takes it away again; false: it does not fit. */
export function putPod(node: OracleNode, left: Left, pod: OraclePod, devices: readonly number[], by: 1 | -1): boolean {
  if (by === 1) {
    if (!admits(node, pod) || left.cpu < pod.cpu || left.memory < pod.memory || left.pods < 1) return false;
    if (devices.some((position) => !isFree(left, node.devices[position]!, position, unitsOf(pod)))) return false;
  }
  left.cpu -= by * pod.cpu;
  left.memory -= by * pod.memory;
  left.pods -= by;
  for (const position of devices) takeDevice(left, node.devices[position]!, position, by, unitsOf(pod));
  return true;
}

/**
 * Calls `visit` with assignments (parallel to `pods`) that fit the nodes and keep all rules, until it returns true.
 * `remember`: assignments that leave the same behind are visited once. The sets of devices that pods of a kind could have
 * where the same is left are found once.
 */
function visitPlacements(
  nodes: readonly OracleNode[],
  pods: readonly OraclePod[],
  rules: readonly OracleRule[],
  remember: boolean,
  limit: number,
  visit: (places: readonly OraclePlace[]) => boolean,
): boolean {
  const sets = setsOf(pods, rules);
  const left = leftsOf(nodes);
  const places: (OraclePlace | undefined)[] = pods.map(({ pinned }) => pinned);
  const open = [...pods.keys()].filter((i) => pods[i]!.pinned === undefined);
  const dead = new Set<string>();
  const kinds = pods.map(({ requests, match, toleratesDevices }) =>
    JSON.stringify([requests, match, toleratesDevices]),
  );
  const known = new Map<string, number[][]>();
  let trials = 0;
  const placesIn = ({ members }: RuleSet) => members.flatMap((i) => places[i] ?? []);
  /** What the rules see of the pods placed so far. */
  const trace = (set: RuleSet) => {
    if (set.rule.type === "colocate") return sharedDomain(nodes, placesIn(set), set.rule.level);
    const paths = placesIn(set).map(({ node }) => spreadPath(nodes[node]!, set.rule.level) ?? "?");
    return paths.sort().join();
  };
  const keeps = (i: number) =>
    sets.every((set) => {
      if (!set.members.includes(i)) return true;
      if (set.rule.type === "colocate") return sharedDomain(nodes, placesIn(set), set.rule.level) !== undefined;
      return set.members.some((each) => !places[each]) || evenEnough(nodes, pods, places, sets, set);
    });
  const next = (depth: number): boolean => {
    const i = open[depth];
    if (i === undefined) return visit(places as OraclePlace[]);
    const there = left.map(leftText);
    const common = commonText(left[0]?.common ?? commonLeft());
    const key = remember ? [depth, common, ...there, ...sets.map(trace)].join("|") : "";
    if (remember && dead.has(key)) return false;
    for (const [n, node] of nodes.entries()) {
      const same = `${n} ${kinds[i]} ${common} ${there[n]}`;
      const choices = known.get(same) ?? deviceSets(node, left[n]!, pods[i]!);
      known.set(same, choices);
      for (const devices of choices) {
        if (++trials > limit) throw tooMuch;
        if (!putPod(node, left[n]!, pods[i]!, devices, 1)) break;
        places[i] = { node: n, devices };
        const stop = keeps(i) && next(depth + 1);
        places[i] = undefined;
        putPod(node, left[n]!, pods[i]!, devices, -1);
        if (stop) return true;
      }
    }
    if (remember) dead.add(key);
    return false;
  };
  return next(0);
}

/** Is there any assignment that fits the nodes and keeps all rules? Throws `tooMuch` beyond `limit` trials, which take a few seconds. */
export function placementExists(
  nodes: readonly OracleNode[],
  pods: readonly OraclePod[],
  rules: readonly OracleRule[],
  limit = 4_000_000,
): boolean {
  return visitPlacements(nodes, pods, rules, true, limit, () => true);
}

/** Least cost of any assignment that keeps all rules; undefined: there is none. Throws `tooMuch`. */
export function leastCost(
  nodes: readonly OracleNode[],
  pods: readonly OraclePod[],
  rules: readonly OracleRule[],
  cost: (places: readonly OraclePlace[]) => number,
  limit = 60_000,
): number | undefined {
  let least: number | undefined;
  visitPlacements(nodes, pods, rules, false, limit, (places) => {
    least = Math.min(least ?? Number.POSITIVE_INFINITY, cost(places));
    return false;
  });
  return least;
}

/** Gigabytes per second and microseconds of the links of each level; `beyond`: ends that share none. */
export type OracleLinks = Partial<Record<OracleLevel | "beyond", readonly [gigabytesPerSecond: number, us: number]>>;

/** Pods that talk to one another: `ring` sums over all their devices, else bytes go from some to others. */
export interface OracleTraffic {
  /** Gang that it is charged to. */
  gang: string;
  pods: readonly number[];
  /** Who a pod belongs to, parallel to `pods`: without a GPU at every end there is no way over NVLink. */
  ends: readonly string[];
  bytes: number;
  ring: boolean;
}

/** Predicted milliseconds: each transfer over the narrowest level that all its pods share. */
export function predictedCost(
  nodes: readonly OracleNode[],
  places: readonly OraclePlace[],
  traffic: readonly OracleTraffic[],
  links: OracleLinks,
): number {
  let total = 0;
  for (const { pods, ends, bytes, ring } of traffic) {
    const at = pods.map((i) => places[i]!);
    const devices = at.reduce((sum, place) => sum + place.devices.length, 0);
    if (ring && devices < 2) continue;
    let [bandwidth, us] = links.beyond!;
    const hasGpu = ({ node, devices: list }: OraclePlace) =>
      list.some((position) => nodes[node]!.devices[position]!.what === "gpu");
    const withGpu = new Set(ends.filter((_, i) => hasGpu(at[i]!)));
    for (const level of oracleLevels) {
      if (level === "pair" && withGpu.size < new Set(ends).size) continue;
      const domain = sharedDomain(nodes, at, level);
      if (domain !== undefined && !domain.endsWith(":?")) [bandwidth, us] = links[level] ?? [bandwidth, us];
    }
    const moved = ring ? (2 * (devices - 1) * bytes) / devices : bytes;
    total += moved / (bandwidth * 1e6) + ((ring ? 2 * (devices - 1) : 1) * us) / 1000;
  }
  return total;
}
