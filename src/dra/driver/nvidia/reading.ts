/** What was read of NVIDIA's boards, as plain data: by NVML in its process, or from nvidia-smi. */
export interface Reading {
  /** As the driver writes it: `570.133.20`. */
  driverVersion: string;
  /** Three numbers: `12.8.0`. */
  cudaDriverVersion: string;
  boards: readonly BoardReading[];
  /** Boards that fell off the bus. */
  lost: readonly string[];
  /** Boards that answered with another error; without a UUID where not even that could be read. */
  unreadable: readonly { uuid?: string; why: string }[];
  /** Boards are left out. */
  isPartial?: true;
}

export interface BoardReading {
  uuid: string;
  minor: number;
  name: string;
  brand: string;
  architecture: string;
  computeCapability: readonly [major: number, minor: number];
  memoryBytes: number;
  /** As NVIDIA writes it: `00000000:1B:00.0`. */
  busId: string;
  links: readonly LinkReading[];
  /** `CLUSTER_UUID.CLIQUE_ID` of a multi-node NVLink domain. */
  clique?: string;
  /** Present: MIG mode is on. */
  mig?: MigReading;
  /** Uncorrected errors since the last reset; absent: no ECC. */
  uncorrectedEccErrors?: number;
  /** `nvmlDeviceGpuRecoveryAction_t`; absent: the driver does not tell. */
  recoveryAction?: number;
  /** Number of the module on its base board; absent: the driver does not tell. */
  moduleId?: number;
  /** How programs reach the host's memory: `None`, `HMM` or `ATS`; absent: the driver does not tell. */
  addressingMode?: string;
}

/** One active NVLink: its other end is a switch, or the GPU with this bus ID. */
export type LinkReading = "switch" | { busId: string };

export interface MigReading {
  profiles: readonly MigProfileReading[];
  instances: readonly MigInstanceReading[];
}

export interface MigProfileReading {
  id: number;
  /** `1g.10gb`. */
  name: string;
  computeSlices: number;
  placements: readonly { start: number; size: number }[];
  memoryMebibytes: number;
  multiprocessors: number;
  copyEngines: number;
  decoders: number;
  encoders: number;
  jpegEngines: number;
  ofaEngines: number;
}

/** A GPU instance and the compute instances in it. */
export interface MigInstanceReading {
  id: number;
  profileId: number;
  start: number;
  size: number;
  compute: readonly { id: number; uuid: string }[];
}
