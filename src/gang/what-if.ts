import { deviceKey } from "../topology/held.ts";
import { changeUsage, copyUsage, emptyUsage, type NodeUsage } from "../topology/inventory.ts";
import type { ClusterModel, ModelView } from "../topology/model.ts";
import type { NodeState } from "../topology/node-table.ts";
import type { NodeRecord } from "../topology/records.ts";
import { namespaceOf } from "./keys.ts";

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

/** The cluster as if a gang (`namespace/name`) and what it holds were gone. */
export function withoutGang(model: ClusterModel, key: string): WhatIf {
  const { view } = model;
  const changes = new Map<number, { usage: NodeUsage; used: Record<string, number> }>();
  const namespace = namespaceOf(key);
  for (const { placed, requests, podUid } of view.heldUnder(key)) {
    const index = view.indexOf(placed.node);
    if (index === undefined) continue;
    const change = changes.get(index) ?? {
      usage: copyUsage(view.usage(index)),
      used: { ...view.nodes[index]!.load.used },
    };
    changes.set(index, change);
    const pod = podUid === undefined ? undefined : model.pod(podUid);
    const bound = pod !== undefined && pod.nodeName === placed.node && !pod.terminal;
    for (const [name, amount] of Object.entries(bound ? pod.requests : requests)) {
      change.used[name] = (change.used[name] ?? 0) - amount;
    }
    change.used["pods"] = (change.used["pods"] ?? 0) - 1;
    const holders = new Set([`hold:${key}`, ...(podUid === undefined ? [] : [`pod:${podUid}`])]);
    for (const { claim } of placed.claims) {
      const uid = model.claim(namespace, claim)?.uid;
      if (uid !== undefined) holders.add(`claim:${uid}`);
    }
    const inventory = view.inventory(index);
    for (const { driver, pool, device, shareID, adminAccess } of placed.claims.flatMap(({ devices }) => devices)) {
      const position = inventory.indexOf.get(deviceKey(driver, pool, device));
      const mine = model.holdersOf(driver, pool, device).every((holder) => holders.has(holder));
      // Of a share, and of what other nodes reach, nobody can say here what its end would free.
      if (position === undefined || !mine || shareID !== undefined || adminAccess === true) continue;
      if (change.usage.used[position]! > 0) changeUsage(inventory, change.usage, position, -1);
    }
  }
  return readAs(model, changes);
}

/** The cluster as if nothing ran on the nodes. */
export function withEmptied(model: ClusterModel, nodes: readonly number[]): WhatIf {
  const { view } = model;
  const emptied = nodes.map((index) => {
    const inventory = view.inventory(index);
    return [index, { used: {}, usage: inventory.wide ? view.usage(index) : emptyUsage(inventory) }] as const;
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
  const returned = nodes.map((index) => {
    const { record } = model.view.nodes[index]!;
    const taints = record.taints.filter(({ key }) => !downTaints.has(key));
    return [index, { record: { ...record, taints, unschedulable: false, ready: true } }] as const;
  });
  return readAs(model, new Map(returned));
}
