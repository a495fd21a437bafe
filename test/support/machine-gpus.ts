import { readFileSync } from "node:fs";
import { parseFleet } from "../../src/simulator/fleet.ts";
import { simulatedGpus, standaloneNode } from "../../src/simulator/objects.ts";

/** Read once: many tests open many drivers. */
let fleet: ReturnType<typeof parseFleet> | undefined;

/** Types of `fleets/default.yaml`: dgx-h100 (8 GPUs), dgx-a100-mig (8 boards to be cut up), h100-pcie, gb200-nvl72. */
export function machineGpus(type: string, node = "node-1") {
  fleet ??= parseFleet(readFileSync("fleets/default.yaml", "utf8"), "default.yaml");
  return simulatedGpus(standaloneNode(node, fleet.nodeTypes.find(({ name }) => name === type)!));
}
