import { BoardRefusal } from "../machine.ts";
import { type Handle, type Nvml, NvmlError, nvmlCodes } from "./nvml-library.ts";
import type {
  BoardReading,
  LinkReading,
  MigInstanceReading,
  MigProfileReading,
  MigReading,
  Reading,
} from "./reading.ts";

/** Reads what the machine has through NVML. Only NVML's own process calls these: any of them may take seconds. */

/** `NVML_NVLINK_MAX_LINKS` of the newest boards. */
const maxLinks = 36;
/** GPU instance profiles are numbered by index here, by ID everywhere else. */
const maxProfiles = 32;
const maxComputeProfiles = 8;
const remoteSwitch = 2;
const remoteGpu = 0;
const fabricProbeCompleted = 3;
/** This board or driver has no such thing. */
const absentCodes: readonly number[] = [nvmlCodes.notSupported, nvmlCodes.functionNotFound];
/** Answers to a request to make something that leave no doubt that nothing was made. */
const refusals: readonly number[] = [
  ...[nvmlCodes.invalidArgument, nvmlCodes.notSupported, nvmlCodes.noPermission, nvmlCodes.notFound],
  ...[nvmlCodes.inUse, nvmlCodes.insufficientResources],
];

/** `nvmlBrandType_t`, in the words of NVIDIA's own driver for Kubernetes. */
const brands = [
  ...["Unknown", "Quadro", "Tesla", "NVS", "Grid", "GeForce", "Titan", "NvidiaVApps", "NvidiaVPC", "NvidiaVCS"],
  ...["NvidiaVWS", "NvidiaCloudGaming", "QuadroRTX", "NvidiaRTX", "Nvidia", "GeForceRTX", "TitanRTX"],
];
/** `nvmlDeviceAddressingModeType_t`, in the same words. */
const addressingModes = ["None", "HMM", "ATS"];
/** `nvmlDeviceArchitecture_t`. */
const architectures = [
  ...["Unknown", "Unknown", "Kepler", "Maxwell", "Pascal", "Volta", "Turing", "Ampere"],
  ...["Ada Lovelace", "Hopper", "Blackwell"],
];

/** Throws what the first board answers if none can be read and one is still there. */
export function readBoards(nvml: Nvml): Reading {
  const boards: BoardReading[] = [];
  const lost: string[] = [];
  const unreadable: { uuid?: string; why: string }[] = [];
  const count = nvml.deviceCount();
  for (let index = 0; index < count; index++) {
    const known: { uuid?: string } = {};
    try {
      const device = nvml.deviceByIndex(index);
      known.uuid = nvml.uuid(device);
      boards.push(readBoard(nvml, device, known.uuid));
    } catch (error) {
      // One board that is gone or broken hides no other.
      if (!(error instanceof NvmlError)) throw error;
      const why = `GPU ${index}: ${error.message}`;
      if (error.code === nvmlCodes.gpuIsLost) lost.push(why);
      else unreadable.push({ ...known, why });
    }
  }
  if (boards.length === 0 && unreadable[0] !== undefined) throw new Error(unreadable[0].why);
  const cuda = nvml.cudaDriverVersion();
  const cudaDriverVersion = `${Math.floor(cuda / 1000)}.${Math.floor((cuda % 1000) / 10)}.0`;
  return { driverVersion: nvml.driverVersion(), cudaDriverVersion, boards, lost, unreadable };
}

function readBoard(nvml: Nvml, device: Handle, uuid: string): BoardReading {
  const mig = optional(() => nvml.migMode(device))?.current === 1 ? readMig(nvml, device) : undefined;
  const clique = readClique(nvml, device);
  const errors = optional(() => nvml.uncorrectedEccErrors(device), [...absentCodes, nvmlCodes.noPermission]);
  const recoveryAction = unlessLost(() => nvml.recoveryAction(device));
  const moduleId = unlessLost(() => nvml.moduleId(device));
  const addressingMode = addressingModes[unlessLost(() => nvml.addressingMode(device).value) ?? -1];
  return {
    uuid,
    minor: nvml.minor(device),
    name: nvml.name(device),
    brand: brands[unlessLost(() => nvml.brand(device)) ?? 0] ?? "Unknown",
    architecture: architectures[unlessLost(() => nvml.architecture(device)) ?? 0] ?? "Unknown",
    computeCapability: nvml.computeCapability(device),
    memoryBytes: Number(nvml.memory(device).total),
    busId: nvml.pci(device).busId,
    links: readLinks(nvml, device),
    ...(clique === undefined ? {} : { clique }),
    ...(mig === undefined ? {} : { mig }),
    ...(errors === undefined ? {} : { uncorrectedEccErrors: errors }),
    ...(recoveryAction === undefined ? {} : { recoveryAction }),
    ...(moduleId === undefined ? {} : { moduleId }),
    ...(addressingMode === undefined ? {} : { addressingMode }),
  };
}

function readLinks(nvml: Nvml, device: Handle): LinkReading[] {
  const links: LinkReading[] = [];
  for (let link = 0; link < maxLinks; link++) {
    if (unlessUnknown(() => nvml.linkState(device, link)) !== 1) continue;
    const type = unlessUnknown(() => nvml.linkRemoteType(device, link));
    const busId = type === remoteSwitch ? undefined : unlessUnknown(() => nvml.linkRemote(device, link))?.busId;
    if (type === remoteSwitch) links.push("switch");
    else if (busId !== undefined && (type === remoteGpu || type === undefined)) links.push({ busId });
  }
  return links;
}

/** NVSwitch boards of one host finish the probe, too, but belong to no cluster. */
function readClique(nvml: Nvml, device: Handle): string | undefined {
  // Drivers that know an older form of the question say so in either of two ways.
  const older = [nvmlCodes.invalidArgument, nvmlCodes.versionMismatch];
  const fabric = optional(() => nvml.fabric(device), [...absentCodes, ...older]);
  if (fabric?.state !== fabricProbeCompleted || fabric.status !== 0) return undefined;
  if (fabric.clusterUuid.every((byte) => byte === 0)) return undefined;
  const hex = Buffer.from(fabric.clusterUuid).toString("hex");
  const uuid = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  return `${uuid}.${fabric.cliqueId}`;
}

function readMig(nvml: Nvml, device: Handle): MigReading {
  const profiles = readProfiles(nvml, device);
  // Then nothing can be told of the board's parts, and as a whole it is of no use.
  if (profiles.length === 0) {
    const text = "MIG mode is on, and no profile is told; update NVIDIA's driver";
    throw new NvmlError("nvmlDeviceGetGpuInstanceProfileInfoV", nvmlCodes.notFound, text);
  }
  return { profiles, instances: readInstances(nvml, device, profiles) };
}

function readProfiles(nvml: Nvml, device: Handle): MigProfileReading[] {
  const profiles: MigProfileReading[] = [];
  for (let index = 0; index < maxProfiles; index++) {
    const profile = unlessUnknown(() => nvml.gpuInstanceProfile(device, index));
    if (profile === undefined) continue;
    profiles.push({
      id: profile.id,
      name: profile.name.replace(/^MIG /, ""),
      computeSlices: profile.sliceCount,
      placements: nvml.placements(device, profile.id),
      memoryMebibytes: Number(profile.memorySizeMB),
      multiprocessors: profile.multiprocessorCount,
      copyEngines: profile.copyEngineCount,
      decoders: profile.decoderCount,
      encoders: profile.encoderCount,
      jpegEngines: profile.jpegCount,
      ofaEngines: profile.ofaCount,
    });
  }
  return profiles;
}

/** All GPU instances of a board, whoever made them. */
export function readInstances(
  nvml: Nvml,
  device: Handle,
  profiles: readonly Pick<MigProfileReading, "id">[] = readProfiles(nvml, device),
): MigInstanceReading[] {
  const uuids = readPartitionUuids(nvml, device);
  return profiles
    .flatMap(({ id }) => nvml.gpuInstances(device, id))
    .map((instance) => {
      const { id, profileId, placement } = nvml.gpuInstanceInfo(instance);
      const compute = computeInstances(nvml, instance).map((each) => nvml.computeInstanceInfo(each).id);
      return {
        ...{ id, profileId, start: placement.start, size: placement.size },
        compute: compute.flatMap((ci) => {
          const uuid = uuids.get(`${id}/${ci}`);
          return uuid === undefined ? [] : [{ id: ci, uuid }];
        }),
      };
    });
}

/** `GPU_INSTANCE/COMPUTE_INSTANCE` → `MIG-…`. */
function readPartitionUuids(nvml: Nvml, device: Handle): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (let index = 0, most = nvml.migDeviceCount(device); index < most; index++) {
    const partition = unlessUnknown(() => nvml.migDevice(device, index));
    if (partition === undefined) continue;
    found.set(`${nvml.gpuInstanceId(partition)}/${nvml.computeInstanceId(partition)}`, nvml.uuid(partition));
  }
  return found;
}

function computeInstances(nvml: Nvml, instance: Handle): Handle[] {
  const ids = computeProfiles(nvml, instance).map(({ id }) => id);
  return [...new Set(ids)].flatMap((id) => nvml.computeInstances(instance, id));
}

function computeProfiles(nvml: Nvml, instance: Handle): { id: number; sliceCount: number }[] {
  return Array.from({ length: maxComputeProfiles }, (_, index) =>
    unlessUnknown(() => nvml.computeInstanceProfile(instance, index, 0)),
  ).filter((profile) => profile !== undefined);
}

/** @returns ID of the new GPU instance. Throws BoardRefusal when there is certainly none. */
export function createGpuInstance(nvml: Nvml, device: Handle, profileId: number, start: number): number {
  const placement = nvml.placements(device, profileId).find((each) => each.start === start);
  if (placement === undefined) {
    throw new BoardRefusal(`MIG profile ${profileId} has no placement at memory slice ${start}`);
  }
  return nvml.gpuInstanceInfo(create(nvml, device, profileId, placement)).id;
}

function create(nvml: Nvml, device: Handle, profileId: number, placement: { start: number; size: number }): Handle {
  try {
    return nvml.createGpuInstance(device, profileId, placement);
  } catch (error) {
    const isNo = error instanceof NvmlError && refusals.includes(error.code);
    throw isNo ? new BoardRefusal(error.message) : error;
  }
}

/** One compute instance that fills the GPU instance. */
export function createComputeInstance(nvml: Nvml, device: Handle, gpuInstance: number): { id: number; uuid: string } {
  const instance = nvml.gpuInstanceById(device, gpuInstance);
  const [whole] = computeProfiles(nvml, instance).sort((a, b) => b.sliceCount - a.sliceCount);
  if (whole === undefined) throw new Error(`GPU instance ${gpuInstance} has no compute instance profile`);
  const { id } = nvml.computeInstanceInfo(nvml.createComputeInstance(instance, whole.id));
  const uuid = readPartitionUuids(nvml, device).get(`${gpuInstance}/${id}`);
  if (uuid === undefined) throw new Error(`NVML shows no MIG device for GPU instance ${gpuInstance}`);
  return { id, uuid };
}

/** Compute instances first; what is gone already is no error. */
export function destroyGpuInstance(nvml: Nvml, device: Handle, gpuInstance: number): void {
  const instance = optional(() => nvml.gpuInstanceById(device, gpuInstance), [nvmlCodes.notFound]);
  if (instance === undefined) return;
  for (const compute of computeInstances(nvml, instance)) nvml.destroyComputeInstance(compute);
  nvml.destroyGpuInstance(instance);
}

/** undefined: this board or driver has no such thing. */
function optional<T>(read: () => T, absent: readonly number[] = absentCodes): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof NvmlError && absent.includes(error.code)) return undefined;
    throw error;
  }
}

/** For what it is good to know and bad to lose a board for: drivers have many ways to say that they do not know. */
function unlessLost<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof NvmlError && error.code !== nvmlCodes.gpuIsLost) return undefined;
    throw error;
  }
}

/** For numbered things: numbers beyond the last one are invalid arguments, or not found. */
function unlessUnknown<T>(read: () => T): T | undefined {
  return optional(read, [
    nvmlCodes.invalidArgument,
    nvmlCodes.notSupported,
    nvmlCodes.notFound,
    nvmlCodes.functionNotFound,
  ]);
}
