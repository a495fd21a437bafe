import { parseDocument } from "yaml";
import { z } from "zod";
import { dnsLabel } from "../api/common.ts";
import { migBoards } from "./mig.ts";

/**
 * A fleet of simulated machines as `fleets/*.yaml` describes it: node types (what one machine holds) and racks (how
 * many of them stand where).
 */

const quantity = z.string().regex(/^[1-9][0-9]{0,9}(Ki|Mi|Gi|Ti|m)?$/, "write a quantity such as 960Gi or 144");
const version = z
  .string()
  .regex(/^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$/, "write three numbers without leading zeros, such as 12.8.0");
/** The API server refuses attribute strings longer than 64 characters. */
const attributeText = z.string().min(1).max(64);

const slot = z.strictObject({
  pciBusID: z
    .string()
    .regex(
      /^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/,
      "write it in lower case as Linux does, such as 0000:1b:00.0",
    ),
  pcieRoot: z.string().regex(/^pci[0-9a-f]{4}:[0-9a-f]{2}$/, "write the PCIe root as Linux does, such as pci0000:1a"),
  numaNode: z.int().min(0).max(63),
  /** Slots of one host with the same number share an NVLink bridge; with `nvlink: bridge` only. */
  bridge: z.int().min(0).max(15).optional(),
});

const gpu = z.strictObject({
  productName: attributeText,
  brand: attributeText,
  architecture: attributeText,
  cudaComputeCapability: version,
  driverVersion: version,
  cudaDriverVersion: version,
  memory: quantity,
  /** The board's geometry; publishes every MIG partition beside the whole GPUs. */
  mig: z.enum(migBoards).optional(),
});

const nodeType = z.strictObject({
  name: dnsLabel.max(40),
  cpuArchitecture: z.enum(["amd64", "arm64"]),
  allocatable: z.strictObject({ cpu: quantity, memory: quantity, pods: z.int().min(1).max(1000) }),
  gpu,
  /** Which GPUs NVLink joins: those of all hosts of the rack, of the host, of a bridge, or none. */
  nvlink: z.enum(["rack", "host", "bridge", "none"]),
  slots: z.array(slot).min(1).max(128),
});

const rack = z.strictObject({
  name: dnsLabel.max(40),
  block: dnsLabel.max(40),
  nodeType: z.string(),
  nodes: z.int().min(1).max(1000),
});

const fleetShape = z.strictObject({
  name: dnsLabel.max(40),
  region: dnsLabel.max(40),
  zone: dnsLabel.max(40),
  nodeTypes: z.array(nodeType).min(1).max(64),
  racks: z.array(rack).min(1).max(20_000),
});

const fleetSchema = fleetShape.superRefine((fleet, context) => {
  const report = (path: (string | number)[], message: string): void => {
    context.addIssue({ code: "custom", path, message });
  };
  const types = new Set(fleet.nodeTypes.map((type) => type.name));
  for (const index of repeated(fleet.nodeTypes.map((type) => type.name))) {
    report(["nodeTypes", index, "name"], "this name stands twice; give each node type its own");
  }
  for (const index of repeated(fleet.racks.map((entry) => entry.name))) {
    report(["racks", index, "name"], "this name stands twice; give each rack its own, node names begin with it");
  }
  for (const [index, entry] of fleet.racks.entries()) {
    if (types.has(entry.nodeType)) continue;
    report(
      ["racks", index, "nodeType"],
      `no node type is called ${JSON.stringify(entry.nodeType)}; use one of ${[...types].join(", ")}, or add it`,
    );
  }
  for (const [index, type] of fleet.nodeTypes.entries()) checkSlots(type, ["nodeTypes", index, "slots"], report);
});

export type GpuSlot = z.output<typeof slot>;
export type NodeType = z.output<typeof nodeType>;
export type Fleet = z.output<typeof fleetShape>;

/** A fleet file that cannot be used. The message has one line per problem: file, field, what to do. */
export class FleetError extends Error {
  constructor(file: string, problems: readonly string[]) {
    super(problems.map((problem) => `${file}: ${problem}`).join("\n"));
    this.name = "FleetError";
  }
}

/** Reads the text of a fleet file; `file` is for messages. Throws FleetError. */
export function parseFleet(text: string, file: string): Fleet {
  const document = parseDocument(text, { prettyErrors: true });
  if (document.errors.length > 0) {
    throw new FleetError(
      file,
      document.errors.map((error) => `not YAML: ${error.message.trim()}`),
    );
  }
  const parsed = fleetSchema.safeParse(document.toJS({ maxAliasCount: 100 }));
  if (parsed.success) return parsed.data;
  throw new FleetError(file, parsed.error.issues.map(describeIssue));
}

/**
 * A fleet of equal 8-GPU machines for benchmarks: H100-like GPUs, one NVSwitch domain per host, racks of
 * `nodesPerRack`, eight racks per block.
 */
export function uniformFleet(size: { nodes: number; gpusPerNode?: number; nodesPerRack?: number }): Fleet {
  const { nodes, gpusPerNode = 8, nodesPerRack = 16 } = size;
  const racks = Array.from({ length: Math.ceil(nodes / nodesPerRack) }, (_, index) => ({
    name: `rack-${String(index).padStart(4, "0")}`,
    block: `block-${String(Math.floor(index / 8)).padStart(3, "0")}`,
    nodeType: "uniform",
    nodes: Math.min(nodesPerRack, nodes - index * nodesPerRack),
  }));
  const slots = Array.from({ length: gpusPerNode }, (_, index) => ({
    pciBusID: `0000:${(0x10 * (index + 1) + 1).toString(16).padStart(2, "0").slice(-2)}:00.0`,
    pcieRoot: `pci0000:${(0x10 * (index + 1)).toString(16).padStart(2, "0").slice(-2)}`,
    numaNode: Math.floor((index * 2) / gpusPerNode),
  }));
  const fleet: z.input<typeof fleetShape> = {
    name: `uniform-${nodes}`,
    region: "sim-region",
    zone: "sim-zone-a",
    nodeTypes: [
      {
        name: "uniform",
        cpuArchitecture: "amd64",
        allocatable: { cpu: "192", memory: "1920Gi", pods: 110 },
        gpu: { ...uniformGpu },
        nvlink: "host",
        slots,
      },
    ],
    racks,
  };
  const parsed = fleetSchema.safeParse(fleet);
  if (parsed.success) return parsed.data;
  throw new FleetError(`uniform fleet of ${nodes} nodes`, parsed.error.issues.map(describeIssue));
}

const uniformGpu = {
  productName: "NVIDIA H100 80GB HBM3",
  brand: "Nvidia",
  architecture: "Hopper",
  cudaComputeCapability: "9.0.0",
  driverVersion: "570.133.20",
  cudaDriverVersion: "12.8.0",
  memory: "80Gi",
};

type Report = (path: (string | number)[], message: string) => void;

function checkSlots(type: NodeType, path: (string | number)[], report: Report): void {
  for (const index of repeated(type.slots.map((entry) => entry.pciBusID))) {
    report([...path, index, "pciBusID"], "this address stands twice in the node type; each GPU has its own");
  }
  for (const [index, entry] of type.slots.entries()) {
    if (type.nvlink === "bridge" && entry.bridge === undefined) {
      report([...path, index, "bridge"], "missing; with nvlink: bridge name the bridge of each slot by number");
    }
    if (type.nvlink !== "bridge" && entry.bridge !== undefined) {
      report([...path, index, "bridge"], `nvlink is ${type.nvlink}; remove it, or set nvlink: bridge`);
    }
  }
}

/** Indices of values that occurred before. */
function repeated(values: readonly string[]): number[] {
  const seen = new Set<string>();
  return values.flatMap((value, index) => {
    if (seen.has(value)) return [index];
    seen.add(value);
    return [];
  });
}

function describeIssue(issue: z.core.$ZodIssue): string {
  const field = fieldPath(issue.path);
  if (issue.code === "unrecognized_keys") {
    const at = field === "" ? "the file" : field;
    return `${at}: unknown field ${issue.keys.join(", ")}; remove it or correct its spelling`;
  }
  if (issue.code === "invalid_type" && issue.input === undefined) {
    const missing = /received undefined$/.test(issue.message);
    return `${field === "" ? "the file" : field}: ${missing ? `missing; give ${article(issue.expected)}` : issue.message}`;
  }
  return `${field === "" ? "the file" : field}: ${issue.message}`;
}

function article(type: string): string {
  return `${/^[aeiou]/.test(type) ? "an" : "a"} ${type}`;
}

/** `nodeTypes[0].slots[2].pciBusID` */
function fieldPath(path: readonly PropertyKey[]): string {
  return path
    .map((part, index) => (typeof part === "number" ? `[${part}]` : `${index === 0 ? "" : "."}${String(part)}`))
    .join("");
}
