import type { PlacedDevice, PlacedPod } from "../api/placement.ts";
import { deviceKey } from "../topology/held.ts";
import type { ClusterModel } from "../topology/model.ts";
import { onlyWaits } from "./keys.ts";
import type { GangPlan, PlanUnit } from "./plan.ts";
import { fitsIn } from "./try-out.ts";
import { withEmptied } from "./what-if.ts";

/** Where a refused unit will fit once those who are there now have left, and nobody has come instead. */
export interface Room {
  /** Level and path of the domain that the pods have to share; undefined: they need not. */
  readonly where: string | undefined;
  readonly plans: readonly GangPlan[];
}

/** Who uses devices of a room: gangs, and pods and claims that belong to none. */
export interface Leavers {
  readonly gangs: number;
  readonly others: number;
  readonly devices: number;
}

/** Would the unit still fit on the nodes of the room, and are its devices still there? */
export function roomStands(model: ClusterModel, unit: PlanUnit, { plans }: Room): boolean {
  const { view } = model;
  const there = placesOf(plans).every(({ node, claims }) => {
    const index = view.indexOf(node);
    if (index === undefined) return false;
    const { indexOf } = view.inventory(index);
    return claims.every(({ devices }) =>
      devices.every(({ driver, pool, device }) => indexOf.has(deviceKey(driver, pool, device))),
    );
  });
  const nodes = new Set(placesOf(plans).flatMap(({ node }) => view.indexOf(node) ?? []));
  return there && fitsIn(model, unit, withEmptied(model, [...nodes], staying(model)));
}

export function leaversOf(model: ClusterModel, plans: readonly GangPlan[]): Leavers {
  const users = new Set<string>();
  let devices = 0;
  for (const device of devicesOf(plans)) {
    const holders = model
      .holdersOf(device.driver, device.pool, device.device, device.shareID)
      .filter((holder) => !onlyWaits(holder));
    if (holders.length > 0) devices++;
    for (const holder of holders) users.add(userOf(model, holder));
  }
  const gangs = [...users].filter((user) => user.startsWith("gang ")).length;
  return { gangs, others: users.size - gangs, devices };
}

/** `; draining rack r7: waits for 3 gangs and 1 pod to leave`, for the end of a refusal; never names who they are: they may be of other tenants. */
export function drainText({ where, plans }: Room, { gangs, others }: Leavers): string {
  const nodes = new Set(placesOf(plans).map(({ node }) => node)).size;
  const who = [...(gangs > 0 ? [counted(gangs, "gang")] : []), ...(others > 0 ? [counted(others, "pod")] : [])];
  const what = who.length > 0 ? `${who.join(" and ")} to leave` : "room on its nodes";
  return `; draining ${where ?? counted(nodes, "node")}: waits for ${what}`;
}

/** Does a refusal end with such a text? */
export function isDrainText(message: string): boolean {
  return message.includes("; draining ");
}

function counted(count: number, what: string): string {
  return count === 1 ? `1 ${what}` : `${count} ${what}s`;
}

/** Node name → the sum of what pods ask there that kllama does not plan. */
export type Stays = ReadonlyMap<string, Readonly<Record<string, number>>>;

export function staying(model: ClusterModel): Stays {
  const sums = new Map<string, Record<string, number>>();
  for (const { nodeName, terminal, gang, claims, requests } of model.pods.values()) {
    if (nodeName === undefined || terminal || gang !== undefined || claims.length > 0) continue;
    const sum = sums.get(nodeName) ?? {};
    sums.set(nodeName, sum);
    for (const [name, amount] of Object.entries({ ...requests, pods: 1 })) sum[name] = (sum[name] ?? 0) + amount;
  }
  return sums;
}

/** The gang or else the pod behind a holder; a claim that nobody uses stands for itself. */
function userOf(model: ClusterModel, holder: string): string {
  const at = holder.indexOf(":");
  const [kind, id] = [holder.slice(0, at), holder.slice(at + 1)];
  if (kind === "pod" || id.startsWith("pod:")) return podUser(model, id.replace(/^pod:/, ""));
  if (kind === "hold") return `gang ${id}`;
  const claim = model.claims.get(id);
  const [consumer] = claim?.reservedFor ?? [];
  if (claim === undefined || consumer === undefined) return holder;
  return consumer.resource === "pods" ? podUser(model, consumer.uid) : `gang ${claim.namespace}/${consumer.name}`;
}

function podUser(model: ClusterModel, uid: string): string {
  const pod = model.pod(uid);
  return pod?.gang === undefined ? `pod:${uid}` : `gang ${pod.namespace}/${pod.gang}`;
}

function placesOf(plans: readonly GangPlan[]): PlacedPod[] {
  return plans.flatMap(({ placement }) => placement.pods);
}

/** Devices that the plans would hold; an administrator's access holds nothing. */
function devicesOf(plans: readonly GangPlan[]): PlacedDevice[] {
  return placesOf(plans).flatMap(({ claims }) =>
    claims.flatMap(({ devices }) => devices.filter(({ adminAccess }) => adminAccess !== true)),
  );
}
