import process from "node:process";
import { openNvmlProcess } from "../../../src/dra/driver/nvidia/nvml-process.ts";

/** A process that waits for NVML to tell the GPU instances of a board. Arguments: library, lock file, UUID of the board. */
const [, , library = "", lockFile = "", gpu = ""] = process.argv;
const nvml = openNvmlProcess({ library, lockFile, limitMs: 600_000, onEvent: () => undefined });
await nvml.ask("instances", { gpu });
