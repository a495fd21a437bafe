import type { Streams } from "./command.ts";

/** NO_COLOR (https://no-color.org) counts when it is set and not empty. */
export function wantsColor(refused: boolean, { stdout, env }: Pick<Streams, "stdout" | "env">): boolean {
  return !refused && (env["NO_COLOR"] ?? "") === "" && stdout.isTTY === true && env["TERM"] !== "dumb";
}
