import type { Hardware } from "./device-ledger.ts";
import { createJudge, type Verdict } from "./judge.ts";
import type { NodeDrivers } from "./node-drivers.ts";
import { concernsDriver, type ObservedClaim } from "./observed.ts";

/** A claim that pods of a node need; it stays as long as one of them does, whatever the driver says to it. */
export interface HeldClaim {
  key: string;
  /** As the driver was last asked for it. */
  claim: ObservedClaim;
  users: Set<string>;
  prepared: boolean;
  /** What came of asking, unless it is prepared. */
  verdict?: Verdict;
  asking?: Promise<void> | undefined;
}

/** The claims that pods of all nodes need, and what the nodes' drivers and a judge say to them. */
export interface HeldClaims {
  /** The pod needs the claim on this node. */
  hold(node: string, claim: ObservedClaim, podUid: string): HeldClaim;
  find(node: string, claimUid: string): HeldClaim | undefined;
  /** Nobody has let go of it meanwhile. */
  isHeld(each: HeldClaim): boolean;
  /** Asks the driver in one call for what is neither prepared nor being asked for. */
  prepare(node: string, needed: readonly HeldClaim[]): Promise<void>;
  /** Nobody needs them any more. @returns those that the driver has to undo. */
  letGo(freed: readonly HeldClaim[]): ObservedClaim[];
  /** Has the driver undo claims. Calls `onFailure` with what went wrong, and the claim with which it did. */
  undo(
    node: string,
    claims: readonly ObservedClaim[],
    onFailure: (message: string, claim?: ObservedClaim) => void,
  ): Promise<void>;
  preparedCount(): number;
}

export interface HeldClaimsOptions {
  hardware: Hardware;
  drivers: Pick<NodeDrivers, "prepare" | "unprepare" | "leftOver">;
}

export function createHeldClaims({ hardware, drivers }: HeldClaimsOptions): HeldClaims {
  /** By node and UID. */
  const held = new Map<string, HeldClaim>();
  const judge = createJudge(hardware);

  return {
    hold(node, claim, podUid) {
      const key = `${node}/${claim.uid}`;
      const each = held.get(key) ?? { key, claim, users: new Set(), prepared: false };
      held.set(key, each);
      if (!each.prepared && each.asking === undefined) each.claim = claim;
      each.users.add(podUid);
      return each;
    },
    find: (node, claimUid) => held.get(`${node}/${claimUid}`),
    isHeld: (each) => held.get(each.key) === each,
    async prepare(node, needed) {
      const unprepared = needed.filter(({ prepared, asking }) => !prepared && asking === undefined);
      for (const each of unprepared) each.prepared = !concernsDriver(each.claim);
      const asked = unprepared.filter(({ prepared }) => !prepared);
      if (asked.length > 0) {
        const asking = ask(node, asked);
        for (const each of asked) each.asking = asking;
      }
      await Promise.all(needed.map(({ asking }) => asking));
    },
    letGo(freed) {
      for (const each of freed) if (held.get(each.key) === each) held.delete(each.key);
      return freed.map(({ claim }) => claim).filter(concernsDriver);
    },
    async undo(node, claims, onFailure) {
      const answers = await drivers.unprepare(
        node,
        claims.map(({ object }) => object),
      );
      for (const claim of claims) {
        judge.leave(claim.uid);
        const { error } = answers.get(claim.uid) ?? { error: "no answer" };
        if (error !== "") onFailure(error, claim);
      }
      const traces = drivers.leftOver(node);
      if (traces.length > 0) onFailure(`node ${node} still has ${traces.join(", ")}, which no claim accounts for`);
    },
    preparedCount: () => [...held.values()].filter(({ prepared }) => prepared).length,
  };

  /** Answers come in the order of the calls, so the judge sees what the driver saw, in the same order. */
  async function ask(node: string, asked: readonly HeldClaim[]): Promise<void> {
    const judged = asked.map(({ claim }) => claim);
    const answers = await drivers.prepare(
      node,
      judged.map(({ object }) => object),
    );
    for (const [index, each] of asked.entries()) {
      const claim = judged[index]!;
      const answer = answers.get(claim.uid) ?? { devices: [], error: "no answer" };
      const verdict = judge.judge(node, claim, answer);
      each.asking = undefined;
      each.prepared = verdict === undefined;
      if (verdict === undefined) delete each.verdict;
      else each.verdict = verdict;
    }
  }
}
