import type { GangPlacement } from "../../api/gang.ts";
import type { Context, Effect, GangRecord, GangState } from "./state.ts";
import { planText, write } from "./status.ts";

/** Writes the plan down: from then on its nodes and devices are held, and reserved. */
export function writeReserved(
  state: GangState,
  gang: GangRecord,
  placement: GangPlacement,
  context: Context,
): Effect & { type: "writeStatus" } {
  return write(state, gang, "Reserved", context, {
    placement,
    reservedAt: context.nowIso(),
    conditions: [
      { type: "Planned", status: "True", reason: "Planned", message: planText(placement.pods) },
      { type: "Scheduled", status: "False", reason: "Reserved", message: "waiting for all members at the barrier" },
    ],
  });
}
