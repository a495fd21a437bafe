import type { GangConstraint } from "../../src/api/gang.ts";

/**
 * A naive planner: tries every node for every pod. Whole GPUs only, so that a node is a number of free GPUs; with a
 * device level, a number per NUMA node. Shares no code with the planner.
 */
export interface OracleNode {
  name: string;
  zone: string | undefined;
  rack: string | undefined;
  /** Label of the level that is told by a label, else by the NUMA node of devices. */
  island: string | undefined;
  cpu: number;
  /** Has it GPUs, whoever holds them? */
  devices: boolean;
  /** Free GPUs per NUMA node. */
  free: [number, number];
  tainted: boolean;
}

export interface OraclePod {
  gang: string;
  podSet: string;
  index: number;
  gpus: number;
  cpu: number;
  tolerates: boolean;
  /** All GPUs on one NUMA node. */
  oneNuma: boolean;
  /** Fixed: runs there already and takes nothing more. */
  pinned?: string;
}

/** Pods by `covers` share a domain of the level, or are spread over it. */
export interface OracleRule {
  type: GangConstraint["type"];
  level: "zone" | "rack" | "island" | "host";
  maxSkew: number;
  required: boolean;
  covers: (pod: OraclePod) => boolean;
  /** Splits the covered pods into sets of their own. */
  part: (pod: OraclePod) => string;
}

/** Where a pod is: its node, and the NUMA nodes that its devices come from. */
export interface OraclePlace {
  node: string;
  numas: readonly number[];
}

const levels = ["zone", "rack", "island", "host"] as const;

/** Whole path of the node's domain; undefined: the node lacks the label. */
function domainPath(node: OracleNode, level: OracleRule["level"]): string | undefined {
  const values = { zone: node.zone, rack: node.rack, island: node.island, host: node.name };
  if (values[level] === undefined) return undefined;
  return levels
    .slice(0, levels.indexOf(level) + 1)
    .map((each) => values[each] ?? "-")
    .join("/");
}

/** Do pods at these places share one domain of the level? */
function together(nodes: readonly OracleNode[], places: readonly OraclePlace[], level: OracleRule["level"]): boolean {
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const paths = new Set(places.map(({ node }) => domainPath(byName.get(node)!, level)));
  if (paths.size > 1) return false;
  if (!paths.has(undefined)) return true;
  // No label: one host that has devices, and one NUMA node on it. Pods without devices have the host alone in common.
  const hosts = new Set(places.map(({ node }) => node));
  const numas = new Set(places.flatMap((place) => place.numas));
  return level === "island" && hosts.size === 1 && byName.get([...hosts][0]!)!.devices && numas.size <= 1;
}

/** The domain that a spread counts a pod in: inside unlabelled hosts domains are not told apart. */
function spreadPath(node: OracleNode, level: OracleRule["level"]): string | undefined {
  return domainPath(node, level) ?? (level === "island" && node.devices ? `host ${node.name}` : undefined);
}

/** Why an assignment (pod → place, parallel to `pods`) breaks a rule; undefined: it does not. */
export function brokenRule(
  nodes: readonly OracleNode[],
  pods: readonly OraclePod[],
  places: readonly OraclePlace[],
  rules: readonly OracleRule[],
): string | undefined {
  const byName = new Map(nodes.map((node) => [node.name, node]));
  for (const rule of rules) {
    const sets = Map.groupBy(
      [...pods.entries()].filter(([, pod]) => rule.covers(pod)),
      ([, pod]) => rule.part(pod),
    );
    for (const members of sets.values()) {
      // A rule binds pods to come; those that run already may stay as they are.
      if (members.every(([, pod]) => pod.pinned !== undefined)) continue;
      const at = members.map(([i]) => places[i]!);
      if (rule.type === "colocate") {
        if (!together(nodes, at, rule.level)) return `${rule.type} ${rule.level}`;
        continue;
      }
      const paths = at.map(({ node }) => spreadPath(byName.get(node)!, rule.level));
      const free = members.flatMap(([, pod], i) => (pod.pinned === undefined ? [paths[i]] : []));
      if (free.includes(undefined)) return `spread ${rule.level}`;
      const around = broaderDomain(
        nodes,
        pods,
        places,
        rules,
        rule,
        members.map(([i]) => i),
      );
      const counts = new Map<string, number>();
      for (const node of nodes) {
        const path = spreadPath(node, rule.level);
        const admits = members.some(([, pod]) => pod.pinned === undefined && (!node.tainted || pod.tolerates));
        if (path !== undefined && admits && around(node)) counts.set(path, 0);
      }
      for (const path of paths) if (path !== undefined) counts.set(path, (counts.get(path) ?? 0) + 1);
      if (Math.max(...counts.values()) - Math.min(...counts.values()) > rule.maxSkew) return `spread ${rule.level}`;
    }
  }
  return undefined;
}

/** A spread is over the domains inside those that hold all its pods together by another, broader, required rule. */
function broaderDomain(
  nodes: readonly OracleNode[],
  pods: readonly OraclePod[],
  places: readonly OraclePlace[],
  rules: readonly OracleRule[],
  spread: OracleRule,
  members: readonly number[],
): (node: OracleNode) => boolean {
  const first = nodes.find(({ name }) => name === places[members[0]!]!.node)!;
  const broader = rules.filter(
    (rule) =>
      rule.required &&
      rule.type === "colocate" &&
      levels.indexOf(rule.level) < levels.indexOf(spread.level) &&
      members.every((i) => rule.covers(pods[i]!)) &&
      new Set(members.map((i) => rule.part(pods[i]!))).size === 1,
  );
  return (node) => broader.every(({ level }) => spreadPath(node, level) === spreadPath(first, level));
}

/** Is there any assignment that fits the nodes and keeps all rules? */
export function placementExists(
  nodes: readonly OracleNode[],
  pods: readonly OraclePod[],
  rules: readonly OracleRule[],
): boolean {
  const places: OraclePlace[] = [];
  const cpu = new Map(nodes.map((node) => [node.name, node.cpu]));
  const free = new Map(nodes.map((node) => [node.name, [...node.free] as [number, number]]));
  const next = (i: number): boolean => {
    if (i === pods.length) return brokenRule(nodes, pods, places, rules) === undefined;
    const pod = pods[i]!;
    if (pod.pinned !== undefined) {
      places.push({ node: pod.pinned, numas: [] });
      const found = next(i + 1);
      places.pop();
      return found;
    }
    for (const node of nodes) {
      if ((node.tainted && !pod.tolerates) || cpu.get(node.name)! < pod.cpu) continue;
      const gpus = free.get(node.name)!;
      for (let onFirst = 0; onFirst <= pod.gpus; onFirst++) {
        const onSecond = pod.gpus - onFirst;
        if (onFirst > gpus[0] || onSecond > gpus[1]) continue;
        if (pod.oneNuma && onFirst > 0 && onSecond > 0) continue;
        cpu.set(node.name, cpu.get(node.name)! - pod.cpu);
        gpus[0] -= onFirst;
        gpus[1] -= onSecond;
        places.push({ node: node.name, numas: [...(onFirst > 0 ? [0] : []), ...(onSecond > 0 ? [1] : [])] });
        const found = next(i + 1);
        places.pop();
        gpus[0] += onFirst;
        gpus[1] += onSecond;
        cpu.set(node.name, cpu.get(node.name)! + pod.cpu);
        if (found) return true;
      }
    }
    return false;
  };
  return next(0);
}
