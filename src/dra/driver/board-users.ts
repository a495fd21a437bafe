import { overlap, type PreparedClaim, type PreparedDevice } from "./prepared-claim.ts";

/** Which claims use which boards: a claim's conflicts are found without a look at all others. */
export interface BoardUsers {
  add(claim: PreparedClaim): void;
  remove(claim: PreparedClaim): void;
  /** The first of the devices that stands on silicon of another claim, and that claim. */
  conflict(devices: readonly PreparedDevice[]): { device: PreparedDevice; user: PreparedClaim } | undefined;
}

export function createBoardUsers(claims: Iterable<PreparedClaim>): BoardUsers {
  /** UUID of a board → claims with devices of it. */
  const users = new Map<string, Set<PreparedClaim>>();
  for (const claim of claims) add(claim);
  return {
    add,
    remove(claim) {
      for (const { gpu } of claim.devices) users.get(gpu.uuid)?.delete(claim);
    },
    conflict(devices) {
      for (const device of devices) {
        for (const user of users.get(device.gpu.uuid) ?? []) {
          if (user.devices.some((theirs) => overlap(device, theirs))) return { device, user };
        }
      }
      return undefined;
    },
  };

  function add(claim: PreparedClaim): void {
    for (const { gpu } of claim.devices) {
      const there = users.get(gpu.uuid);
      if (there === undefined) users.set(gpu.uuid, new Set([claim]));
      else there.add(claim);
    }
  }
}
