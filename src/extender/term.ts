import type { Logger } from "pino";
import type { PlannerTermSpec } from "../api/planner-term.ts";
import type { KubeClient } from "../kube/client.ts";
import { beginTerm, probeTerm, reviveTerm, type TermFault } from "../kube/planner-term.ts";
import type { Timing } from "../kube/timing.ts";
import { whileLeading } from "./while-leading.ts";

/** What keeps every other planner's writes out while we plan, and those of our own predecessor in our pod. */
export interface Fence {
  /**
   * Begins our term and resolves once the API server enforces it; tries again until then, or until the signal. A term that
   * somebody deletes later is begun anew, as long as `leads` says that we still have the Lease. `first`: nobody had it before us.
   */
  raise(signal: AbortSignal, leads: () => boolean, first: boolean): Promise<void>;
  /**
   * Resolves once the term that we began is somebody else's, with whose it is. None of our writes passes any more, and none
   * will: who still leads ends, so that a fresh process begins a term on top and lists what was done meanwhile.
   */
  taken: Promise<string>;
  /** Number of our term, which every write has to name; undefined before it has begun. */
  epoch(): number | undefined;
  /** What is wrong with it, undefined while it stands. As of the last probe. */
  trouble(): string | undefined;
  /** Does it stand, as far as the API server has said? A probe that was not answered says nothing. */
  stands(): boolean;
}

export interface FenceOptions {
  client: KubeClient;
  /** How the API server knows us: `PlannerTerm.spec.holder`. */
  holder: string;
  /** What is wrong with the policies that no write of ours can try out; undefined: nothing. Asked with each probe. */
  policyFault?: () => Promise<string | undefined>;
  log: Pick<Logger, "info" | "warn">;
  timing: Timing;
}

/** A policy follows its parameter within some hundred milliseconds; it is asked that often until it does. */
const propagationMs = 100;
const retryMs = 1_000;
/**
 * How long a new term's first plan waits for API servers that lag behind the one that was asked. A planner that is
 * restarted under the holder of the last term does not wait: no other process runs that could write, and what was under way
 * when its predecessor was killed has to outlive the start and to meet an API server that lags.
 */
const settleMs = 2_000;
const probePeriodMs = 30_000;

/** The fence of design: PlannerTerm and the policy term.scheduling.kllama.ai. */
export function createFence({ client, holder, policyFault, log, timing }: FenceOptions): Fence {
  let trouble: string | undefined = "the term has not begun";
  let stands = false;
  let fault: TermFault | undefined;
  const taken = Promise.withResolvers<string>();
  let term: PlannerTermSpec | undefined;

  /** @returns whether the API server answered */
  async function probe(ours: PlannerTermSpec): Promise<boolean> {
    const before = trouble;
    let answered = true;
    try {
      fault = await probeTerm(client, ours);
      trouble = fault?.message ?? (await policyFault?.());
      stands = trouble === undefined;
      if (fault?.kind === "taken") taken.resolve(fault.message);
    } catch (error) {
      answered = false;
      trouble = `the fence cannot be probed: ${String(error)}`;
    }
    if (trouble !== undefined && trouble !== before) log.warn({ trouble }, "fence");
    return answered;
  }

  /** Who was paused before it wrote its term, past its Lease, leaves that of its successor alone. */
  async function begin(
    signal: AbortSignal,
    leads: () => boolean,
  ): Promise<{ epoch: number; before?: string } | undefined> {
    const writer = whileLeading(client, leads);
    while (!signal.aborted && leads()) {
      try {
        // The wall clock decides nothing: it is a number that was not there before.
        return await beginTerm(writer, holder, timing.wallClock().getTime());
      } catch (error) {
        trouble = error instanceof Error ? error.message : String(error);
        log.warn({ trouble }, "fence");
        await timing.sleep(retryMs, signal);
      }
    }
    return undefined;
  }

  async function watch(ours: PlannerTermSpec, signal: AbortSignal, leads: () => boolean): Promise<void> {
    while (!signal.aborted) {
      await timing.sleep(trouble === undefined ? probePeriodMs : retryMs, signal);
      if (!signal.aborted) await probe(ours);
      if (!signal.aborted && fault?.kind === "missing" && leads()) await revive(ours);
    }
  }

  async function revive(ours: PlannerTermSpec): Promise<void> {
    await reviveTerm(client, ours).then(
      () => log.info(ours, "term begun anew: somebody deleted it"),
      (error: unknown) => log.warn({ error: String(error) }, "fence"),
    );
  }

  return {
    taken: taken.promise,
    async raise(signal, leads, first) {
      const begun = await begin(signal, leads);
      if (begun === undefined) return;
      const { epoch, before } = begun;
      term = { holder, epoch };
      let answered = await probe(term);
      while (trouble !== undefined && !signal.aborted) {
        await timing.sleep(answered ? propagationMs : retryMs, signal);
        if (fault?.kind === "missing" && leads()) await revive(term);
        answered = await probe(term);
      }
      // Where somebody deleted the term nobody knows whose it was.
      const succeeds = before === undefined ? !first : before !== holder;
      if (succeeds) await timing.sleep(settleMs, signal);
      if (signal.aborted) return;
      log.info({ epoch, holder, before }, "term begun");
      void watch(term, signal, leads);
    },
    epoch: () => term?.epoch,
    trouble: () => trouble,
    stands: () => stands,
  };
}
