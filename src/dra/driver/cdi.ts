import { driverName } from "../../api/names.ts";
import type { ClaimReference } from "./grpc.ts";
import type { DeviceAccess, PreparedClaim, PreparedDevice } from "./prepared-claim.ts";

/**
 * What a container gets, in the words of the Container Device Interface (`cncf-tags/container-device-interface`
 * SPEC.md): one CDI device per claim and request. It carries the whole environment: one per GPU would each set
 * `IREE_DEVICE`, and the last would win.
 */

export interface CdiSpec {
  cdiVersion: string;
  kind: string;
  annotations: Record<string, string>;
  devices: { name: string; containerEdits: ContainerEdits }[];
}

interface ContainerEdits {
  env: string[];
  deviceNodes?: DeviceAccess["nodes"][number][];
  mounts?: { hostPath: string; containerPath: string; options: string[] }[];
}

const kind = `${driverName}/claim`;
/** The oldest version that knows annotations and names that begin with a digit, as UIDs do. */
const cdiVersion = "0.6.0";
/** `NAMESPACE/NAME`: tells which claim to ask for when only the spec is left. */
const claimAnnotation = `${driverName}/claim`;
const fileName = /^gpu\.kllama\.ai-claim_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.json$/;

/** Where the control daemon of NVIDIA's Multi-Process Service listens unless it is told otherwise. */
export const mpsFolder = "/tmp/nvidia-mps";

/** UIDs become file names: nothing but a UUID may. */
export function isClaimUid(text: string): boolean {
  return fileName.test(`gpu.kllama.ai-claim_${text}.json`);
}

/** Name of the spec's file, a function of the UID alone. */
export function specFile(claimUid: string): string {
  return `${driverName}-claim_${claimUid}.json`;
}

/** UID of the claim that a file in the CDI folder is about; undefined: not ours. */
export function claimOfFile(file: string): string | undefined {
  return fileName.exec(file)?.[1];
}

/** The file is what `replaceFile` begins a spec of ours with. */
export function isHalfWritten(file: string): boolean {
  return file.endsWith(".tmp") && claimOfFile(file.slice(0, -".tmp".length)) !== undefined;
}

/** The claim that a spec was written for. */
export function claimOfSpec(spec: unknown, uid: string): ClaimReference | undefined {
  const text = (spec as Partial<CdiSpec> | null)?.annotations?.[claimAnnotation];
  const [, namespace, name] = /^([^/]+)\/([^/]+)$/.exec(text ?? "") ?? [];
  return namespace === undefined || name === undefined ? undefined : { namespace, name, uid };
}

/** Full name of the CDI device of one request; a UID is never used twice, so runtimes may cache it. */
export function cdiDeviceId(claimUid: string, request: string): string {
  return `${kind}=${cdiDeviceName(claimUid, request)}`;
}

export function cdiSpec(claim: PreparedClaim): CdiSpec {
  return {
    cdiVersion,
    kind,
    annotations: { [claimAnnotation]: `${claim.namespace}/${claim.name}` },
    devices: requestsOf(claim).map(([request, devices]) => ({
      name: cdiDeviceName(claim.uid, request),
      containerEdits: containerEdits(devices),
    })),
  };
}

/** Name of the CDI device of one request. */
export function cdiDeviceName(claimUid: string, request: string): string {
  return `${claimUid}-${request}`;
}

function containerEdits(devices: readonly PreparedDevice[]): ContainerEdits {
  const nodes = new Map(
    devices.flatMap(({ access }) => (access?.nodes ?? []).map((node) => [node.path, node] as const)),
  );
  const mounts = [...new Set(devices.flatMap(({ access }) => access?.mounts ?? []))];
  return {
    env: [...(devices[0]?.gpu.amd === undefined ? nvidia(devices) : amd(devices)), ...sharedBy(devices)],
    ...(nodes.size === 0 ? {} : { deviceNodes: [...nodes.values()] }),
    ...(mounts.length === 0
      ? {}
      : { mounts: mounts.map((path) => ({ hostPath: path, containerPath: path, options: ["rw", "nosuid", "bind"] })) }),
  };
}

/**
 * Devices in rank order. `void` keeps NVIDIA's container runtime from adding devices of its own. Of the partitions that a
 * container may use, CUDA shows each of its processes one, the first that is visible, as device 0: MIG UUIDs are no IREE
 * device names. So only that one is a device of IREE's; the others stand where a process may be told to look.
 */
function nvidia(devices: readonly PreparedDevice[]): string[] {
  const visible = devices.map(({ gpu, partition }) => partition?.uuid ?? gpu.uuid);
  const shown = shownByCuda(devices);
  const uris = shown.map(({ gpu, partition }) => (partition === undefined ? `cuda://${gpu.uuid}` : "cuda://0"));
  const targets = shown.map(({ gpu }) => `sm_${shortVersion(gpu.cudaComputeCapability)?.replace(".", "")}`);
  return [
    `IREE_DEVICE=${uris.join(",")}`,
    `CUDA_VISIBLE_DEVICES=${visible.join(",")}`,
    "NVIDIA_VISIBLE_DEVICES=void",
    `KLLAMA_DEVICE_TARGETS=${targets.join(",")}`,
    `KLLAMA_DEVICE_CUDA=${shortVersion(devices[0]?.gpu.cudaDriverVersion)}`,
  ];
}

/** One process sees either whole GPUs or one partition (`docs.nvidia.com/datacenter/tesla/mig-user-guide`). */
function shownByCuda(devices: readonly PreparedDevice[]): readonly PreparedDevice[] {
  return devices.some(({ partition }) => partition !== undefined) ? devices.slice(0, 1) : devices;
}

/** Requests with devices that no process of theirs sees unless it is told to. */
export function partlyShown(claim: PreparedClaim): string[] {
  return requestsOf(claim).flatMap(([request, devices]) =>
    shownByCuda(devices).length < devices.length ? [request] : [],
  );
}

function requestsOf({ devices }: PreparedClaim): [request: string, devices: PreparedDevice[]][] {
  return [...new Set(devices.map(({ request }) => request))].map((request) => [
    request,
    devices.filter((device) => device.request === request),
  ]);
}

/** ROCm shows a container what is listed, in that order, and numbers it from 0. */
function amd(devices: readonly PreparedDevice[]): string[] {
  return [
    `IREE_DEVICE=${devices.map((_, rank) => `hip://${rank}`).join(",")}`,
    `ROCR_VISIBLE_DEVICES=${devices.map(({ gpu }) => gpu.uuid).join(",")}`,
    `KLLAMA_DEVICE_TARGETS=${devices.map(({ gpu }) => gpu.amd?.target).join(",")}`,
  ];
}

/** What CUDA programs tell NVIDIA's Multi-Process Service (`docs.nvidia.com/deploy/mps`). */
function sharedBy(devices: readonly PreparedDevice[]): string[] {
  const [mps] = devices.flatMap((device) => device.mps ?? []);
  if (mps === undefined) return [];
  const { defaultActiveThreadPercentage: percentage, defaultPinnedDeviceMemoryLimit: limit } = mps;
  return [
    `CUDA_MPS_PIPE_DIRECTORY=${mpsFolder}`,
    ...(percentage === undefined ? [] : [`CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=${percentage}`]),
    ...(limit === undefined
      ? []
      : [`CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=${devices.map((_, rank) => `${rank}=${limit}`).join(",")}`]),
  ];
}

function shortVersion(version: string | undefined): string | undefined {
  return version?.split(".").slice(0, 2).join(".");
}
