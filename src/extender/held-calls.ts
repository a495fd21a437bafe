import type { Timing } from "../kube/timing.ts";
import type { Coordinator } from "./coordinator.ts";
import type { BindRequest } from "./server.ts";

/** Bind calls that kube-scheduler waits on, by number. */
export interface HeldCalls {
  /** Holds one call at the barrier. @returns why the pod was not bound, or undefined when it was. */
  hold(request: BindRequest, signal: AbortSignal): Promise<string | undefined>;
  answer(call: number, error: string | undefined): void;
  answerAll(error: string): void;
}

/** @param holdMs a call is answered after this long although its gang is not complete: kube-scheduler makes it again */
export function createHeldCalls(
  coordinator: () => Pick<Coordinator, "arrive" | "leave" | "gangOf">,
  timing: Timing,
  holdMs: number,
): HeldCalls {
  const held = new Map<number, { resolve: (error: string | undefined) => void; answered: AbortController }>();
  let last = 0;

  function answer(call: number, error: string | undefined): void {
    const found = held.get(call);
    if (found === undefined) return;
    held.delete(call);
    found.answered.abort("answered");
    found.resolve(error);
  }

  function open(podUid: string, resolve: (error: string | undefined) => void): number {
    last += 1;
    const call = last;
    const answered = new AbortController();
    held.set(call, { resolve, answered });
    void timing.sleep(holdMs, answered.signal).then(() => {
      if (answered.signal.aborted) return;
      const gang = coordinator().gangOf(podUid) ?? "?";
      coordinator().leave(podUid, call);
      answer(call, `gang ${gang}: not all members are at the barrier yet`);
    });
    return call;
  }

  return {
    hold({ podUid, podName, node }, signal) {
      return new Promise((resolve) => {
        const call = open(podUid, resolve);
        signal.addEventListener("abort", () => {
          coordinator().leave(podUid, call);
          answer(call, "the call was given up");
        });
        if (coordinator().arrive(podUid, node, call) === undefined) {
          answer(call, `pod ${podName} with UID ${podUid} is not a member of any gang`);
        }
      });
    },
    answer,
    answerAll(error) {
      for (const call of [...held.keys()]) answer(call, error);
    },
  };
}
