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
export function devicesOf(claims: Shape["claims"], deviceClass: string): number {
  return claims
    .flatMap(({ requests }) => requests)
    .filter(({ alternatives }) => alternatives[0]!.className === deviceClass)
    .reduce((sum, { alternatives }) => sum + Math.min(...alternatives.map(({ count }) => Math.max(1, count))), 0);
}

/** Devices of the first class that the pods claim; else pods. */
export function amounts(
  shape: Pick<Shape, "claims">,
  pods: number,
  room: number,
): Pick<Blocking, "resource" | "needed" | "available"> {
  const claims = shape.claims.filter(({ left }) => !left);
  const counted = claims.length > 0 ? claims : shape.claims;
  const [className] = classesOf(counted);
  if (className === undefined) return { resource: "pods", needed: pods, available: room };
  const devices = devicesOf(counted, className);
  return { resource: className, needed: pods * devices, available: room * devices };
}
