import { deviceOf, type Held, heldBy, heldKey } from "../topology/held.ts";
import { changeUsage, copyUsage, emptyUsage, type NodeUsage } from "../topology/inventory.ts";
import { type ClusterModel, holdSlot, type ModelView } from "../topology/model.ts";
import type { NodeState } from "../topology/node-table.ts";
import type { ClaimRecord, NodeRecord, PodRecord, Resources } from "../topology/records.ts";
import { namespaceOf } from "./keys.ts";
import { demandsOf } from "./shape.ts";

/** What differs from the cluster as it is, node by node. */
interface Change {
  readonly usage?: NodeUsage;
  readonly used?: Readonly<Record<string, number>>;
  readonly record?: NodeRecord;
}

/** A model read as if some nodes were otherwise. */
export interface WhatIf {
  readonly model: ClusterModel;
  readonly changed: readonly number[];
}

function readAs(model: ClusterModel, changes: ReadonlyMap<number, Change>): WhatIf {
  const { view } = model;
  const nodes = view.nodes.map((node, index): NodeState | undefined => {
    const change = changes.get(index);
    if (!node || !change) return node;
    const { used = node.load.used, record = node.record } = change;
    return { index, record, load: { ...node.load, used } };
  });
  const usage = (index: number) => changes.get(index)?.usage ?? view.usage(index);
  return { model: { ...model, view: { ...view, nodes, usage } satisfies ModelView }, changed: [...changes.keys()] };
}

/** Who leaves, with all that it has. */
export interface Leaver {
  /** Under which the model holds places for it. */
  readonly key?: string;
  /** Bound to nodes, and not over. */
  readonly pods: readonly PodRecord[];
  /** Nobody else uses them. */
  readonly claims: readonly ClaimRecord[];
}

/** The cluster as if a gang (`namespace/name`) and what it holds were gone. */
export function withoutGang(model: ClusterModel, key: string): WhatIf {
  const held = model.view.heldUnder(key);
  const pods = held.flatMap(({ placed, podUid }) => {
    const pod = podUid === undefined ? undefined : model.pod(podUid);
    return pod !== undefined && pod.nodeName === placed.node && !pod.terminal ? [pod] : [];
  });
  const names = new Set(held.flatMap(({ placed }) => placed.claims.map(({ claim }) => claim)));
  const claims = [...names].flatMap((name) => model.claim(namespaceOf(key), name) ?? []);
  return withoutLeavers(model, [{ key, pods, claims }]);
}

/** The cluster as if they were gone. A device that somebody else holds too stays taken. */
export function withoutLeavers(model: ClusterModel, leavers: readonly Leaver[]): WhatIf {
  const { view } = model;
  const changes = new Map<number, { usage: NodeUsage; used: Record<string, number> }>();
  const changeOf = (index: number) => {
    const known = changes.get(index);
    if (known !== undefined) return known;
    const change = { usage: copyUsage(view.usage(index)), used: { ...view.nodes[index]!.load.used } };
    changes.set(index, change);
    return change;
  };
  const unload = (node: string, requests: Resources) => {
    const index = view.indexOf(node);
    if (index === undefined) return;
    const { used } = changeOf(index);
    for (const [name, amount] of demandsOf({ requests })) used[name] = (used[name] ?? 0) - amount;
  };
  for (const { key, pods } of leavers) {
    for (const pod of pods) unload(pod.nodeName!, pod.requests);
    for (const { placed } of key === undefined ? [] : view.heldUnder(key)) {
      const index = view.indexOf(placed.node);
      const load = index === undefined ? undefined : view.nodes[index]?.load;
      const requests = load?.heldBy(`${namespaceOf(key!)}/${placed.pod}`, holdSlot(key!, placed));
      if (requests !== undefined) unload(placed.node, requests);
    }
  }
  const gone = new Set(leavers.flatMap(holdersOf));
  const things = new Map<string, { held: Held; nodes: readonly number[] }>();
  for (const leaver of leavers) {
    const nodes = nodesOf(view, leaver);
    for (const [key, held] of heldThings(model, leaver)) things.set(key, { held, nodes });
  }
  for (const { held, nodes } of things.values()) {
    const [driver, pool, device] = partsOf(deviceOf(held));
    const share = typeof held === "string" ? undefined : held;
    if (!model.holdersOf(driver, pool, device, share?.id).every((holder) => gone.has(holder))) continue;
    for (const index of homesOf(view, deviceOf(held), nodes)) {
      const inventory = view.inventory(index);
      changeUsage(inventory, changeOf(index).usage, inventory.indexOf.get(deviceOf(held))!, -1, share?.consumed);
    }
  }
  return readAs(model, changes);
}

/** As the ledger names them. */
function holdersOf({ key, pods, claims }: Leaver): string[] {
  const holds = key === undefined ? [] : [`hold:${key}`];
  return [...holds, ...pods.map(({ uid }) => `pod:${uid}`), ...claims.map(({ uid }) => `claim:${uid}`)];
}

/** What a leaver holds, by its key in the ledger; of a share that only a running pod has nobody can say how large it is. */
function heldThings(model: ClusterModel, { key, pods, claims }: Leaver): [string, Held][] {
  const places = key === undefined ? [] : model.view.heldUnder(key);
  const things = [
    ...pods.flatMap(({ uid }) => model.heldBy(`pod:${uid}`).filter((held) => !held.includes("#"))),
    ...places.flatMap(({ placed }) => placed.claims.flatMap(({ devices }) => heldBy(devices))),
    ...claims.flatMap(({ allocation }) => heldBy(allocation?.devices?.results ?? [])),
  ];
  // A claim may have been emptied under its pod, and a place not be reserved yet: what nobody holds frees nothing.
  return things.flatMap((held) => {
    const [driver, pool, device] = partsOf(deviceOf(held));
    const share = typeof held === "string" ? undefined : held.id;
    return model.holdersOf(driver, pool, device, share).length > 0 ? [[heldKey(held), held]] : [];
  });
}

/** Driver, pool and name in the key of a device: only pools have slashes. */
function partsOf(key: string): [driver: string, pool: string, device: string] {
  const [first, last] = [key.indexOf("/"), key.lastIndexOf("/")];
  return [key.slice(0, first), key.slice(first + 1, last), key.slice(last + 1)];
}

/** Nodes on which a leaver has something. */
export function nodesOf(view: ModelView, { key, pods }: Leaver): number[] {
  const names = new Set(pods.map(({ nodeName }) => nodeName!));
  for (const { placed } of key === undefined ? [] : view.heldUnder(key)) names.add(placed.node);
  return [...names].flatMap((name) => view.indexOf(name) ?? []);
}

/** Nodes that know the device: the first of those given that does, or all where several can reach its pool. */
function homesOf(view: ModelView, device: string, likely: readonly number[]): number[] {
  const has = (index: number) => view.inventory(index).indexOf.has(device);
  const near = likely.find(has);
  if (near !== undefined && !view.inventory(near).wide) return [near];
  return view.nodes.flatMap((node) => (node !== undefined && has(node.index) ? [node.index] : []));
}

/** The cluster as if nothing ran on those of the nodes that exist, but for what stays there: node name → its sum of requests. */
export function withEmptied(
  model: ClusterModel,
  nodes: readonly number[],
  stays?: ReadonlyMap<string, Readonly<Record<string, number>>>,
): WhatIf {
  const { view } = model;
  const emptied = nodes.flatMap((index) => {
    const node = view.nodes[index];
    if (node === undefined) return [];
    const inventory = view.inventory(index);
    const used = stays?.get(node.record.name) ?? {};
    return [[index, { used, usage: inventory.wide ? view.usage(index) : emptyUsage(inventory) }] as const];
  });
  return readAs(model, new Map(emptied));
}

const downTaints: ReadonlySet<string> = new Set(
  ["not-ready", "unreachable", "unschedulable"].map((name) => `node.kubernetes.io/${name}`),
);

/** Is the node cordoned, or not ready? */
export function isDown({ unschedulable, ready }: NodeRecord): boolean {
  return unschedulable || !ready;
}

/** The cluster as if the nodes were ready and not cordoned. */
export function withReturned(model: ClusterModel, nodes: readonly number[]): WhatIf {
  const returned = nodes.flatMap((index) => {
    const node = model.view.nodes[index];
    if (node === undefined) return [];
    const { record } = node;
    const taints = record.taints.filter(({ key }) => !downTaints.has(key));
    return [[index, { record: { ...record, taints, unschedulable: false, ready: true } }] as const];
  });
  return readAs(model, new Map(returned));
}
