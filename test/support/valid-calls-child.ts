import process from "node:process";
import type { ClaimReference } from "../../src/dra/driver/grpc.ts";
import { connectKubelet } from "./kubelet-client.ts";

/**
 * Prepares and unprepares one claim, one call after another, until its standard input ends; prints the milliseconds that each call
 * took. A process of its own: who sends garbage is busy with that.
 */

const [registration = "", dra = "", reference = ""] = process.argv.slice(2);
const claim = JSON.parse(reference) as ClaimReference;
const kubelet = connectKubelet(registration, dra);
const tookMs: number[] = [];
let over = false;
process.stdin.resume().on("end", () => {
  over = true;
});
while (!over) {
  for (const verb of ["prepare", "unprepare"] as const) {
    const startedMs = performance.now();
    const answers = await kubelet[verb]([claim]);
    tookMs.push(performance.now() - startedMs);
    const error = answers[claim.uid]?.error ?? "not answered";
    if (error !== "") throw new Error(`${verb}: ${error}`);
  }
}
console.log(JSON.stringify(tookMs));
process.exit(0);
