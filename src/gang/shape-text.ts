import type { Blocking } from "../api/placement.ts";
import type { Shape } from "./shape.ts";

export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** `4 gpu.kllama.ai devices`; of a pod without claims, its resources. */
export function describeShape({ claims, demands }: Shape): string {
  const byClass = new Map<string, number>();
  for (const { alternatives } of claims.flatMap((claim) => claim.requests)) {
    const { className, count, mode } = alternatives[0]!;
    byClass.set(className, (byClass.get(className) ?? 0) + (mode === "All" ? 1 : count));
  }
  if (byClass.size > 0) return [...byClass].map(([name, count]) => plural(count, `${name} device`)).join(" and ");
  const resources = demands.filter(([name]) => name !== "pods").map(([name, amount]) => amountText(name, amount));
  return resources.length > 0 ? resources.join(", ") : "no requests";
}

/** `cpu` is counted in millicores, memory in bytes. */
export function amountText(resource: string, amount: number): string {
  if (resource === "cpu") return `cpu ${amount % 1000 === 0 ? amount / 1000 : `${amount}m`}`;
  if (amount >= 1024 ** 2 && amount % 1024 ** 2 === 0) {
    return amount % 1024 ** 3 === 0 ? `${resource} ${amount / 1024 ** 3}Gi` : `${resource} ${amount / 1024 ** 2}Mi`;
  }
  return `${resource} ${amount}`;
}

/** Classes of the devices that claims ask for, each once. */
export function classesOf(claims: Shape["claims"]): string[] {
  const alternatives = claims.flatMap(({ requests }) => requests.map((request) => request.alternatives[0]!));
  return [...new Set(alternatives.map(({ className }) => className))];
}

/** Devices of a class that the claims need at least. */
function devicesOf(claims: Shape["claims"], deviceClass: string): number {
  return claims
    .flatMap(({ requests }) => requests)
    .filter(({ alternatives }) => alternatives[0]!.className === deviceClass)
    .reduce((sum, { alternatives }) => sum + Math.min(...alternatives.map(({ count }) => Math.max(1, count))), 0);
}

/**
 * What so many pods need of each of the resources, and what those get that have room. Of no resources, since nobody knows which
 * are short: devices of the first class that the pods claim; else pods.
 */
export function amounts(
  shape: Shape,
  resources: readonly string[],
  pods: number,
  room: number,
): Pick<Blocking, "resource" | "needed" | "available">[] {
  const claims = shape.claims.filter(({ left }) => !left);
  const [first = "pods"] = classesOf(claims.length > 0 ? claims : shape.claims);
  return (resources.length > 0 ? resources : [first]).map((resource) => {
    const each = amountOf(shape, resource);
    return { resource, needed: pods * each, available: room * each };
  });
}

/** What one pod of the shape asks for of a device class or a resource. */
export function amountOf({ claims, demands }: Shape, resource: string): number {
  const devices = devicesOf(claims, resource);
  return devices > 0 ? devices : (demands.find(([name]) => name === resource)?.[1] ?? 0);
}

/** ` for want of cpu`; empty where only devices are short, which goes without saying of pods that claim some. */
export function wantText({ claims }: Shape, short: readonly string[]): string {
  const expected = new Set([...classesOf(claims), "pods"]);
  return short.every((each) => expected.has(each)) ? "" : ` for want of ${short.join(" or ")}`;
}
