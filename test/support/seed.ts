import fc from "fast-check";

/**
 * Set up before every test without a cluster: property tests play the same cases every time, so that a change is judged
 * by what it does and not by luck. `KLLAMA_SEED=N` plays others.
 */
fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(process.env["KLLAMA_SEED"] ?? 20_261_121) });
