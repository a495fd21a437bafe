import process from "node:process";
import fc from "fast-check";

/**
 * Property tests play the same cases every time, so that a change is judged by what it does and not by luck. `KLLAMA_SEED=N`
 * plays others. Set up before every test without a cluster.
 */
export const seed = Number(process.env["KLLAMA_SEED"] ?? 20_261_121);
fc.configureGlobal({ ...fc.readConfigureGlobal(), seed });

/** Told once in a run, also of tests that pass. */
export default function setup(): void {
  console.log(`property tests play seed ${seed}; KLLAMA_SEED=N plays others`);
}
