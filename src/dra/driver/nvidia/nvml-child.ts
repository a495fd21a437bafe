import { closeSync, openSync } from "node:fs";
import process from "node:process";
import koffi from "koffi";
import { BoardRefusal } from "../machine.ts";
import { loadNvml, type Nvml } from "./nvml-library.ts";
import type { NvmlMessage, NvmlQuestion } from "./nvml-protocol.ts";
import {
  createComputeInstance,
  createGpuInstance,
  destroyGpuInstance,
  readBoards,
  readInstances,
} from "./read-boards.ts";
import { watchEvents } from "./watch-events.ts";

/**
 * NVML's own process: a call that hangs, or a library that crashes, takes only this process along. Its arguments are the
 * library's path and the lock file's; it ends with its parent.
 */

const [, , libraryPath = "", lockFile = ""] = process.argv;
const libc = koffi.load(null);
const flock = libc.func("int flock(int fd, int operation)");
const exclusive = 2;
const interrupted = 4;

let loaded: Nvml | undefined;

function nvml(): Nvml {
  if (loaded === undefined) {
    loaded = loadNvml(libraryPath);
    void watchEvents(loaded, (gpu, xid) => tell({ type: "event", gpu, xid }));
  }
  return loaded;
}

function answer(question: NvmlQuestion): unknown {
  const library = nvml();
  if (question.call === "read") return readBoards(library);
  return alone(() => {
    const device = library.deviceByUuid(question.gpu);
    switch (question.call) {
      case "instances":
        return readInstances(library, device);
      case "createGpuInstance":
        return createGpuInstance(library, device, question.profileId, question.start);
      case "createComputeInstance":
        return createComputeInstance(library, device, question.gpuInstance);
      case "destroyGpuInstance":
        destroyGpuInstance(library, device, question.gpuInstance);
        return null;
    }
  });
}

/**
 * Waits until no other process of this driver is about to change a board. The kernel finishes what it began for a process that
 * was killed, and unlocks only then: whoever looks afterwards sees what came of it.
 */
function alone<T>(work: () => T): T {
  const file = openSync(lockFile, "a", 0o600);
  try {
    while (flock(file, exclusive) !== 0) {
      const code = koffi.errno();
      if (code !== interrupted) throw new Error(`lock ${lockFile}: flock failed with error ${code}`);
    }
    return work();
  } finally {
    closeSync(file);
  }
}

function tell(message: NvmlMessage): void {
  if (process.connected) process.send?.(message);
}

/** Also when it ends during a call of NVML's, in which no event of Node's gets through (`prctl(2)`). */
function endWithParent(): void {
  const [setDeathSignal, sigkill] = [1, 9];
  libc.func("int prctl(int option, unsigned long signal)")(setDeathSignal, sigkill);
  process.once("disconnect", () => process.kill(process.pid, "SIGKILL"));
}

endWithParent();
process.on("message", (question: NvmlQuestion) => {
  try {
    tell({ type: "answer", answer: answer(question) });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    tell({ type: "failed", message, refused: error instanceof BoardRefusal });
  }
});
