import type { ClusterModel } from "../topology/model.ts";
import type { ClaimRecord, PodRecord } from "../topology/records.ts";
import { isGuard } from "./lifecycle/claims.ts";
import { type GangState, heldPods } from "./lifecycle/state.ts";
import { type Leaver, type WhatIf, withoutLeavers } from "./what-if.ts";

/** What leaves as a whole or not at all: gangs of one PlacementGroup, a gang, or a pod of its own. */
export interface Victim {
  /** Unique and stable: decides between equals. */
  readonly id: string;
  /** The highest of its pods': none of them may be worth as much as what it makes room for. */
  readonly priority: number;
  /** Of its oldest part. */
  readonly createdAtMs: number;
  /** Pods that have to be evicted. */
  readonly pods: readonly PodRecord[];
  /** Devices that it has or has places for. */
  readonly devices: number;
  readonly leavers: readonly Leaver[];
}

/**
 * Gangs that leave together.
 * @param id unique among victims
 */
export function gangVictim(model: ClusterModel, id: string, states: readonly GangState[]): Victim {
  const leavers = states.map((state) => leaverOf(model, state));
  const pods = leavers.flatMap((leaver) => leaver.pods);
  const all = states.flatMap((state) => [...state.pods.values()].filter(({ terminal }) => !terminal));
  const places = states.flatMap((state) => heldPods(state));
  return {
    id,
    priority: Math.max(...all.map(({ priority }) => priority)),
    createdAtMs: Math.min(...states.map(({ gang }) => gang?.createdAtMs ?? 0)),
    pods: pods.filter(({ deleting }) => !deleting),
    devices: places.reduce((sum, { claims }) => sum + claims.reduce((n, { devices }) => n + devices.length, 0), 0),
    leavers,
  };
}

/** As what a pod of its own leaves. */
export function podVictimId({ uid }: Pick<PodRecord, "uid">): string {
  return `pod:${uid}`;
}

/** A pod without a gang whose claims are allocated. */
export function podVictim(model: ClusterModel, pod: PodRecord): Victim {
  const claims = claimsOf(model, [pod]);
  return {
    id: podVictimId(pod),
    priority: pod.priority,
    createdAtMs: pod.createdAtMs,
    pods: pod.deleting ? [] : [pod],
    devices: claims.reduce((sum, { allocation }) => sum + (allocation?.devices?.results?.length ?? 0), 0),
    leavers: [{ pods: [pod], claims }],
  };
}

/** The cluster as if they were gone. */
export function withoutVictims(model: ClusterModel, victims: readonly Victim[]): WhatIf {
  return withoutLeavers(
    model,
    victims.flatMap(({ leavers }) => leavers),
  );
}

/** What goes with a gang: its places, its bound pods, and claims that nobody else uses. */
function leaverOf(model: ClusterModel, state: GangState): Leaver {
  // Whoever got the label after its creation stays.
  const members = [...state.pods.values()].filter(({ bindMarker }) => bindMarker);
  const pods = members.filter(({ nodeName, terminal }) => nodeName !== undefined && !terminal);
  return { key: state.key, pods, claims: claimsOf(model, members) };
}

function claimsOf(model: ClusterModel, pods: readonly PodRecord[]): ClaimRecord[] {
  const uids = new Set(pods.map(({ uid }) => uid));
  const claims = new Map<string, ClaimRecord>();
  for (const { namespace, claims: references } of pods) {
    for (const { claimName } of references) {
      const claim = claimName === undefined ? undefined : model.claim(namespace, claimName);
      if (claim?.reservedFor.every((consumer) => isGuard(consumer) || uids.has(consumer.uid))) {
        claims.set(claim.uid, claim);
      }
    }
  }
  return [...claims.values()];
}
