import { driverName } from "../api/names.ts";
import type { PrepareAnswer } from "../dra/driver/grpc.ts";
import { createDeviceLedger, type DeviceConflict, type Hardware } from "./device-ledger.ts";
import { deviceNames, type ObservedClaim, sameDevices } from "./observed.ts";

/**
 * A second opinion on what drivers answer. It shares no code with planner, allocator and driver, and counts by the published
 * counters, where the driver compares memory slices.
 */
export interface Judge {
  /** What is wrong with the driver's answer about a claim, or with the claim; undefined: it is prepared, and rightly so. */
  judge(node: string, claim: ObservedClaim, answer: PrepareAnswer): Verdict | undefined;
  /** The claim is no longer prepared. */
  leave(claimUid: string): void;
}

/** `holders` are UIDs of claims. `message` is the judge's, `refusal` the driver's. */
export interface Verdict {
  kind:
    | DeviceConflict["kind"]
    | "WrongNode"
    | "AllocationChanged"
    | "PrepareFailed"
    | "WronglyPrepared"
    | "WronglyRefused";
  device?: string;
  holders: readonly string[];
  message: string;
  refusal?: string;
}

export function createJudge(hardware: Hardware): Judge {
  const ledger = createDeviceLedger(hardware);
  /** Claims in the ledger. */
  const entered = new Map<string, ObservedClaim>();

  return {
    judge(node, claim, answer) {
      const conflict = conflictOf(node, claim);
      if (answer.error !== "") return judgeRefusal(node, claim, answer.error, conflict);
      const wrong = conflict?.message ?? misnamed(claim, answer);
      if (wrong !== undefined) {
        const message = `claim ${claim.name} was prepared, but ${wrong}`;
        return { holders: [], ...conflict, kind: "WronglyPrepared", message };
      }
      if (entered.has(claim.uid)) return undefined;
      entered.set(claim.uid, claim);
      ledger.enter(claim.uid, node, used(claim));
      return undefined;
    },
    leave(claimUid) {
      entered.delete(claimUid);
      ledger.leave(claimUid);
    },
  };

  function conflictOf(node: string, claim: ObservedClaim): Verdict | undefined {
    const devices = claim.devices ?? [];
    const away = devices.find(({ pool }) => pool !== node);
    if (away !== undefined) {
      const message = `claim ${claim.name} holds device ${away.pool}/${away.device}, the pod is on node ${node}`;
      return { kind: "WrongNode", device: away.device, holders: [], message };
    }
    for (const { device } of devices) {
      const fault = ledger.fault(node, device);
      if (fault !== undefined) return fault;
    }
    const before = entered.get(claim.uid);
    if (before === undefined) return ledger.conflict(node, used(claim));
    if (sameDevices(before, claim)) return undefined;
    const message = `the allocation of claim ${claim.name} changed while it was prepared`;
    return { kind: "AllocationChanged", holders: [], message };
  }

  function judgeRefusal(node: string, claim: ObservedClaim, refusal: string, conflict: Verdict | undefined): Verdict {
    if (conflict !== undefined) return { ...conflict, refusal };
    if (mayBeRefused(claim) || looksAtNothing(node, claim))
      return { kind: "PrepareFailed", holders: [], message: refusal, refusal };
    const message = `claim ${claim.name} was refused, but its devices are free: ${refusal}`;
    return { kind: "WronglyRefused", holders: [], message, refusal };
  }

  /** An administrator's claim names a partition, and changes no board to have it. */
  function looksAtNothing(node: string, { devices = [] }: ObservedClaim): boolean {
    return devices.some(({ device, watched }) => watched === true && hardware.isCut(node, device));
  }
}

function used(claim: ObservedClaim): string[] {
  return (claim.devices ?? []).flatMap(({ device, watched }) => (watched === true ? [] : [device]));
}

/** The answer has to name each device once, and each request has to bring something into the container. */
function misnamed(claim: ObservedClaim, { devices }: PrepareAnswer): string | undefined {
  const named = deviceNames(devices.map(({ pool_name, device_name }) => ({ pool: pool_name, device: device_name })));
  if (named !== deviceNames(claim.devices)) return `the answer names ${named || "no device"}`;
  const results = claim.object.status?.allocation?.devices?.results ?? [];
  const requests = results
    .filter(({ driver }) => driver === driverName)
    .map(({ request }) => request.split("/", 1)[0]!);
  const empty = requests.find((request) =>
    devices.every(
      ({ request_names, cdi_device_ids }) => !request_names.includes(request) || cdi_device_ids.length === 0,
    ),
  );
  return empty === undefined ? undefined : `the answer names no CDI device for request ${empty}`;
}

/**
 * The claim itself may give the driver a reason: it is being deleted, holds what is no hardware of the node, or is configured
 * in more than the order of its devices.
 */
function mayBeRefused({ object, devices = [] }: ObservedClaim): boolean {
  const { results = [], config = [] } = object.status?.allocation?.devices ?? {};
  if (object.metadata.deletionTimestamp !== undefined) return true;
  if (results.some(({ driver, shareID }) => driver === driverName && shareID !== undefined)) return true;
  return config.some(({ opaque }) => {
    if (opaque?.driver !== driverName) return false;
    const { apiVersion: _, kind: __, rankOrder, ...more } = (opaque.parameters ?? {}) as { [field: string]: unknown };
    const ordersItsOwn =
      Array.isArray(rankOrder) && rankOrder.every((name) => devices.some(({ device }) => device === name));
    return !ordersItsOwn || Object.keys(more).length > 0;
  });
}
