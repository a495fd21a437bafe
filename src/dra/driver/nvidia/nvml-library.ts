import koffi, { type KoffiFunc, type TypeObject } from "koffi";

/**
 * The part of NVIDIA's management library that the driver calls, by its stable C interface (`nvml.h` 13.0). Only a child
 * process loads this: calls may take seconds.
 */
export type Nvml = ReturnType<typeof loadNvml>;

/** Address of a device, GPU instance, compute instance or event set inside NVML. */
export type Handle = bigint;

/** What NVML answered instead of success. */
export class NvmlError extends Error {
  readonly code: number;
  constructor(call: string, code: number, text: string) {
    super(`${call}: ${text} (NVML error ${code})`);
    this.code = code;
  }
}

/** `nvmlReturn_t` values that mean something to us. */
export const nvmlCodes = {
  invalidArgument: 2,
  notSupported: 3,
  noPermission: 4,
  notFound: 6,
  timeout: 10,
  functionNotFound: 13,
  gpuIsLost: 15,
  inUse: 19,
  insufficientResources: 23,
  versionMismatch: 25,
} as const;

const uint = "unsigned int";
const busIdLength = 32;
const textLength = 96;

const pciInfo = koffi.struct({
  busIdLegacy: koffi.array("char", 16, "String"),
  domain: uint,
  bus: uint,
  device: uint,
  pciDeviceId: uint,
  pciSubSystemId: uint,
  busId: koffi.array("char", busIdLength, "String"),
});
const memory = koffi.struct({ total: "uint64_t", free: "uint64_t", used: "uint64_t" });
const fabricInfo = koffi.struct({
  version: uint,
  clusterUuid: koffi.array("unsigned char", 16, "Array"),
  status: "int",
  cliqueId: uint,
  state: "unsigned char",
  healthMask: uint,
});
const addressingMode = koffi.struct({ version: uint, value: uint });
const placement = koffi.struct({ start: uint, size: uint });
const gpuInstanceProfile = koffi.struct({
  version: uint,
  id: uint,
  isP2pSupported: uint,
  sliceCount: uint,
  instanceCount: uint,
  multiprocessorCount: uint,
  copyEngineCount: uint,
  decoderCount: uint,
  encoderCount: uint,
  jpegCount: uint,
  ofaCount: uint,
  memorySizeMB: "uint64_t",
  name: koffi.array("char", textLength, "String"),
});
const gpuInstanceInfo = koffi.struct({ device: "void *", id: uint, profileId: uint, placement });
const computeInstanceProfile = koffi.struct({
  id: uint,
  sliceCount: uint,
  instanceCount: uint,
  multiprocessorCount: uint,
  sharedCopyEngineCount: uint,
  sharedDecoderCount: uint,
  sharedEncoderCount: uint,
  sharedJpegCount: uint,
  sharedOfaCount: uint,
});
const computeInstanceInfo = koffi.struct({
  device: "void *",
  gpuInstance: "void *",
  id: uint,
  profileId: uint,
  placement,
});
const eventData = koffi.struct({
  device: "void *",
  eventType: "uint64_t",
  eventData: "uint64_t",
  gpuInstanceId: uint,
  computeInstanceId: uint,
});
const fieldValue = koffi.struct({
  fieldId: uint,
  scopeId: uint,
  timestamp: "int64_t",
  latencyUsec: "int64_t",
  valueType: "int",
  nvmlReturn: "int",
  value: "uint64_t",
});

/** Of versioned structures, `NVML_STRUCT_VERSION`. */
function structVersion(type: TypeObject, version: number): number {
  return (koffi.sizeof(type) | (version << 24)) >>> 0;
}

/** `eventData` of an XID event is the XID. */
export interface DeviceEvent {
  device: Handle;
  eventType: number;
  eventData: number;
}

/** Kinds of events, bits of `eventType`. */
export const eventTypes = { doubleBitEcc: 0x2, xid: 0x8 } as const;

type TypeSpec = Parameters<typeof koffi.out>[0];
type Out<T> = T[];
const out = (type: TypeSpec) => koffi.out(koffi.pointer(type));
const inout = (type: TypeSpec) => koffi.inout(koffi.pointer(type));

function open(path: string): ReturnType<typeof koffi.load> {
  try {
    return koffi.load(path);
  } catch (error) {
    const { message } = error as Error;
    throw new Error(`${path}: ${message}; install NVIDIA's driver, or name its library with --nvml-library`);
  }
}

/** Loads the library and starts NVML. Throws when the library is not there or NVML does not start. */
export function loadNvml(path: string) {
  const library = open(path);
  const errorString = library.func("nvmlErrorString", "str", ["int"]);
  /** undefined: this driver's library is too old to have the function. */
  const declare = (name: string, parameters: TypeSpec[]): KoffiFunc<(...args: unknown[]) => number> => {
    try {
      return library.func(name, "int", parameters) as never;
    } catch {
      return Object.assign(() => nvmlCodes.functionNotFound, { async: undefined }) as never;
    }
  };
  const fail = (name: string, code: number): never => {
    throw new NvmlError(name, code, String(errorString(code)));
  };
  const checked = (name: string, parameters: TypeSpec[]) => {
    const call = declare(name, parameters);
    return (...values: unknown[]): void => {
      const code = call(...values);
      if (code !== 0) fail(name, code);
    };
  };
  /** A function whose last parameter takes the answer. */
  const getter = <T>(name: string, inputs: TypeSpec[], output: TypeSpec) => {
    const call = checked(name, [...inputs, out(output)]);
    return (...values: unknown[]): T => {
      const answer: Out<T> = [undefined as T];
      call(...values, answer);
      return answer[0]!;
    };
  };
  /** A function that fills a buffer with a text. */
  const text = (name: string, inputs: TypeSpec[]) => {
    const call = checked(name, [...inputs, "void *", uint]);
    return (...values: unknown[]): string => {
      const buffer = Buffer.alloc(textLength);
      call(...values, buffer, buffer.length);
      return buffer.toString("utf8", 0, buffer.indexOf(0));
    };
  };
  /** A function that fills an array and tells how much of it. */
  const list = <T>(name: string, element: TypeSpec, most: number) => {
    const call = checked(name, ["void *", uint, "void *", inout(uint)]);
    return (of: Handle, id: number): T[] => {
      const size = koffi.sizeof(element);
      const buffer = Buffer.alloc(size * most);
      const count = [most];
      call(of, id, buffer, count);
      return Array.from({ length: count[0]! }, (_, i) => koffi.decode(buffer, i * size, element) as T);
    };
  };
  const versioned = <T>(name: string, inputs: TypeSpec[], type: TypeObject, version: number) => {
    const call = checked(name, [...inputs, inout(type)]);
    return (...values: unknown[]): T => {
      const answer = { version: structVersion(type, version) };
      call(...values, answer);
      return answer as T;
    };
  };
  const wait = declare("nvmlEventSetWait_v2", ["void *", out(eventData), uint]);
  const fieldValues = checked("nvmlDeviceGetFieldValues", ["void *", "int", inout(fieldValue)]);
  const migMode = checked("nvmlDeviceGetMigMode", ["void *", out(uint), out(uint)]);
  const volatileErrors = getter<number>("nvmlDeviceGetTotalEccErrors", ["void *", "int", "int"], "uint64_t");
  const supported = getter<number | bigint>("nvmlDeviceGetSupportedEventTypes", ["void *"], "uint64_t");
  const placed = ["void *", uint, koffi.pointer(placement)];
  const capability = checked("nvmlDeviceGetCudaComputeCapability", ["void *", out("int"), out("int")]);

  checked("nvmlInit_v2", [])();
  return {
    driverVersion: text("nvmlSystemGetDriverVersion", []),
    cudaDriverVersion: getter<number>("nvmlSystemGetCudaDriverVersion_v2", [], "int"),
    deviceCount: getter<number>("nvmlDeviceGetCount_v2", [], uint),
    deviceByIndex: getter<Handle>("nvmlDeviceGetHandleByIndex_v2", [uint], "void *"),
    deviceByUuid: getter<Handle>("nvmlDeviceGetHandleByUUID", ["str"], "void *"),
    name: text("nvmlDeviceGetName", ["void *"]),
    uuid: text("nvmlDeviceGetUUID", ["void *"]),
    minor: getter<number>("nvmlDeviceGetMinorNumber", ["void *"], uint),
    brand: getter<number>("nvmlDeviceGetBrand", ["void *"], "int"),
    architecture: getter<number>("nvmlDeviceGetArchitecture", ["void *"], uint),
    memory: getter<{ total: number }>("nvmlDeviceGetMemoryInfo", ["void *"], memory),
    pci: getter<{ busId: string }>("nvmlDeviceGetPciInfo_v3", ["void *"], pciInfo),
    computeCapability(device: Handle): [major: number, minor: number] {
      const [major, minor] = [[0], [0]];
      capability(device, major, minor);
      return [major[0]!, minor[0]!];
    },
    migMode(device: Handle): { current: number; pending: number } {
      const [current, pending] = [[0], [0]];
      migMode(device, current, pending);
      return { current: current[0]!, pending: pending[0]! };
    },
    uncorrectedEccErrors(device: Handle): number {
      return Number(volatileErrors(device, 1, 0));
    },
    /** `nvmlDeviceGpuRecoveryAction_t`: 0 none. */
    recoveryAction(device: Handle): number {
      const value = { fieldId: 230, scopeId: 0, timestamp: 0, latencyUsec: 0, valueType: 0, nvmlReturn: 0, value: 0 };
      fieldValues(device, 1, value);
      if (value.nvmlReturn !== 0) fail("nvmlDeviceGetFieldValues", value.nvmlReturn);
      // Only the low half is valid: the field is an unsigned int.
      return Number(BigInt(value.value) & 0xffffffffn);
    },
    linkState: getter<number>("nvmlDeviceGetNvLinkState", ["void *", uint], "int"),
    linkRemote: getter<{ busId: string }>("nvmlDeviceGetNvLinkRemotePciInfo_v2", ["void *", uint], pciInfo),
    /** 0: GPU, 2: switch, 255: unknown. */
    linkRemoteType: getter<number>("nvmlDeviceGetNvLinkRemoteDeviceType", ["void *", uint], "int"),
    fabric: versioned<{ clusterUuid: number[]; status: number; cliqueId: number; state: number }>(
      "nvmlDeviceGetGpuFabricInfoV",
      ["void *"],
      fabricInfo,
      2,
    ),
    /** Number of the module on its base board; 0 for boards that are on none. */
    moduleId: getter<number>("nvmlDeviceGetModuleId", ["void *"], uint),
    /** 0: none, 1: HMM, 2: ATS. */
    addressingMode: versioned<{ value: number }>("nvmlDeviceGetAddressingMode", ["void *"], addressingMode, 1),
    gpuInstanceProfile: versioned<{
      id: number;
      sliceCount: number;
      instanceCount: number;
      multiprocessorCount: number;
      copyEngineCount: number;
      decoderCount: number;
      encoderCount: number;
      jpegCount: number;
      ofaCount: number;
      memorySizeMB: number;
      name: string;
    }>("nvmlDeviceGetGpuInstanceProfileInfoV", ["void *", uint], gpuInstanceProfile, 2),
    placements: list<{ start: number; size: number }>("nvmlDeviceGetGpuInstancePossiblePlacements_v2", placement, 32),
    gpuInstances: list<Handle>("nvmlDeviceGetGpuInstances", "void *", 32),
    gpuInstanceById: getter<Handle>("nvmlDeviceGetGpuInstanceById", ["void *", uint], "void *"),
    gpuInstanceInfo: getter<{ id: number; profileId: number; placement: { start: number; size: number } }>(
      "nvmlGpuInstanceGetInfo",
      ["void *"],
      gpuInstanceInfo,
    ),
    createGpuInstance: getter<Handle>("nvmlDeviceCreateGpuInstanceWithPlacement", placed, "void *"),
    destroyGpuInstance: checked("nvmlGpuInstanceDestroy", ["void *"]),
    computeInstanceProfile: getter<{ id: number; sliceCount: number }>(
      "nvmlGpuInstanceGetComputeInstanceProfileInfo",
      ["void *", uint, uint],
      computeInstanceProfile,
    ),
    computeInstances: list<Handle>("nvmlGpuInstanceGetComputeInstances", "void *", 8),
    computeInstanceInfo: getter<{ id: number }>("nvmlComputeInstanceGetInfo_v2", ["void *"], computeInstanceInfo),
    createComputeInstance: getter<Handle>("nvmlGpuInstanceCreateComputeInstance", ["void *", uint], "void *"),
    destroyComputeInstance: checked("nvmlComputeInstanceDestroy", ["void *"]),
    migDeviceCount: getter<number>("nvmlDeviceGetMaxMigDeviceCount", ["void *"], uint),
    migDevice: getter<Handle>("nvmlDeviceGetMigDeviceHandleByIndex", ["void *", uint], "void *"),
    gpuInstanceId: getter<number>("nvmlDeviceGetGpuInstanceId", ["void *"], uint),
    computeInstanceId: getter<number>("nvmlDeviceGetComputeInstanceId", ["void *"], uint),
    eventSet: getter<Handle>("nvmlEventSetCreate", [], "void *"),
    freeEventSet: checked("nvmlEventSetFree", ["void *"]),
    /** Bits of `eventTypes`, and others. */
    supportedEvents(device: Handle): number {
      return Number(BigInt(supported(device)) & 0xffffn);
    },
    registerEvents: checked("nvmlDeviceRegisterEvents", ["void *", "uint64_t", "void *"]),
    /** Waits on a thread of its own. undefined: nothing happened in that time. */
    nextEvent(set: Handle, timeoutMs: number): Promise<DeviceEvent | undefined> {
      return new Promise((resolve, reject) => {
        const data: Out<DeviceEvent> = [{} as DeviceEvent];
        wait.async(set, data, timeoutMs, (error: Error | null, code: number) => {
          if (error !== null) reject(error);
          else if (code === nvmlCodes.timeout) resolve(undefined);
          else if (code !== 0) reject(new NvmlError("nvmlEventSetWait_v2", code, String(errorString(code))));
          else resolve(data[0]);
        });
      });
    },
  };
}
