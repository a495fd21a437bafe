import { heldPods, placesGivenUp } from "../gang/lifecycle/state.ts";
import { heldBy, heldKey } from "../topology/held.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { ClaimRecord, PodRecord } from "../topology/records.ts";
import type { Coordinator } from "./coordinator.ts";

/** What the ledger has for claims, pods and Gangs, against what follows from them; undefined, or empty: they agree. */

type Granted = Parameters<typeof heldBy>[0];

/** Exactly the devices of the allocation. */
export function claimDrift(model: ClusterModel, { uid, allocation }: ClaimRecord): string | undefined {
  return differenceOf(model, `claim:${uid}`, keysOf(allocation?.devices?.results ?? []), "its allocation");
}

/**
 * A pod that runs: at least the devices of the claims that it stands in. It keeps what it had of one that was emptied, so
 * more is no fault. Any other pod: nothing.
 */
export function podDrift(model: ClusterModel, pod: PodRecord): string | undefined {
  const holder = `pod:${pod.uid}`;
  if (pod.nodeName === undefined || pod.terminal) return differenceOf(model, holder, [], "it does not run and has");
  const claims = pod.claims.map(({ claimName }) => model.claim(pod.namespace, claimName ?? ""));
  const own = claims.filter((claim) => claim?.reservedFor.some(({ uid }) => uid === pod.uid));
  const used = keysOf(own.flatMap((claim) => claim?.allocation?.devices?.results ?? []));
  const held = new Set(model.heldBy(holder));
  if (used.every((key) => held.has(key))) return undefined;
  return differenceOf(model, holder, used, "its claims");
}

/** Exactly the places that the Gang has, is about to have, or has not given up yet. */
export function gangDrift(model: ClusterModel, coordinator: Coordinator, key: string): string | undefined {
  const state = coordinator.state(key);
  // Who stands by takes it in a moment later.
  if (state?.gang === undefined) return undefined;
  const places = heldPods(state);
  const all = [...places, ...placesGivenUp(state, places)];
  return differenceOf(model, `hold:${key}`, keysOf(all.flatMap(devicesOf)), "its places");
}

/** Entries of claims, pods and Gangs that are not known. Others, of rooms and of writes in doubt, are their owners' to end. */
export function strayHolders(model: ClusterModel, coordinator: Coordinator): string[] {
  return model.ledgerHolders().filter((holder) => {
    const [kind, ...rest] = holder.split(":");
    const name = rest.join(":");
    if (kind === "claim") return !model.claims.has(name);
    if (kind === "pod") return !model.pods.has(name);
    if (name.startsWith("pod:")) return !model.pods.has(name.slice("pod:".length));
    return isGangKey(name) && coordinator.state(name) === undefined;
  });
}

/** Neither namespaces nor names have colons or spaces, which keys of others have. */
function isGangKey(key: string): boolean {
  return key.includes("/") && !/[: ]/.test(key);
}

function devicesOf({ claims }: ReturnType<typeof heldPods>[number]): Granted {
  return claims.flatMap(({ devices }) => devices);
}

function keysOf(results: Granted): string[] {
  return [...new Set(heldBy(results).map(heldKey))].sort();
}

function differenceOf(model: ClusterModel, holder: string, expected: readonly string[], what: string) {
  const held = model.heldBy(holder).join();
  return held === expected.join() ? undefined : `the ledger has devices [${held}] for it, ${what} [${expected.join()}]`;
}
