import { join } from "node:path";
import { systemTiming } from "../../../kube/timing.ts";
import type { Machine } from "../machine.ts";
import { type Host, openHost } from "./host.ts";

export interface HostMachineOptions {
  kind: "auto" | "nvidia" | "amd";
  /** `/`, or where a container has the host's root mounted. */
  root: string;
  nvmlLibrary: string;
  /** Of the driver: processes that call NVML wait for one another there. */
  stateFolder: string;
  /** Boards in MIG mode that are cut up for claims: UUIDs or minors, `all`, or none. */
  partitionable: readonly string[];
  onWarning(message: string): void;
}

const nvidiaVendor = "0x10de";
/** Of `nvidia-smi`; NVML's own stands in its process. */
const programLimitMs = 30_000;

/** The machine that this process runs on. `auto` takes what is there; a machine without GPUs has an empty inventory. */
export async function openHostMachine(options: HostMachineOptions): Promise<Machine> {
  const { root, onWarning } = options;
  const host = openHost(root);
  const kind = options.kind === "auto" ? await detect(host) : options.kind;
  if (kind === "nvidia") {
    const [{ openNvidiaMachine }, { readNvidiaSmi, setTimeSlice }] = await Promise.all([
      import("../nvidia/machine.ts"),
      import("../nvidia/nvidia-smi.ts"),
    ]);
    return openNvidiaMachine({
      ...{ host, onWarning, timing: systemTiming, library: options.nvmlLibrary },
      lockFile: join(options.stateFolder, "nvml.lock"),
      partitionable: options.partitionable.includes("all") ? "all" : new Set(options.partitionable),
      fallback: (ended) => readNvidiaSmi("nvidia-smi", programLimitMs, ended),
      setTimeSlice: (gpuUuid, interval) => setTimeSlice("nvidia-smi", programLimitMs, gpuUuid, interval),
    });
  }
  const { openAmdMachine } = await import("../amd/machine.ts");
  if (kind === undefined) onWarning("this machine has no GPU of NVIDIA or AMD; it publishes no device");
  return openAmdMachine({ host, onWarning, timing: systemTiming });
}

/** By the PCI functions that the kernel's drivers have taken. */
async function detect(host: Host): Promise<"nvidia" | "amd" | undefined> {
  if ((await host.names("/proc/driver/nvidia/gpus")).length > 0) return "nvidia";
  for (const address of await host.names("/sys/bus/pci/devices")) {
    const folder = `/sys/bus/pci/devices/${address}`;
    const [vendor, type] = [await host.text(`${folder}/vendor`), await host.text(`${folder}/class`)];
    // Display controllers, and what NVIDIA calls 3D controllers.
    if (vendor === nvidiaVendor && type?.startsWith("0x03") === true) return "nvidia";
  }
  const { amdCards } = await import("../amd/machine.ts");
  return (await amdCards(host)).length > 0 ? "amd" : undefined;
}
