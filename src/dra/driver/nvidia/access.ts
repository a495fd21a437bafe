import { claimOfFile, mpsFolder } from "../cdi.ts";
import { ClaimError } from "../claim.ts";
import type { Host } from "../host/host.ts";
import type { DeviceAccess, PreparedDevice, PreparedPartition } from "../prepared-claim.ts";

/** How containers reach NVIDIA's devices. */

type Node = DeviceAccess["nodes"][number];

/** Nodes that every CUDA program opens; hosts have more or fewer of the second list. */
const required = ["/dev/nvidiactl", "/dev/nvidia-uvm"];
const usual = ["/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];
/** The kind under which `nvidia-ctk cdi generate` describes GPUs, together with NVIDIA's libraries. */
const toolkitKind = "nvidia.com/gpu";
/** Folders of CDI, in rising precedence. */
const specFolders = ["/etc/cdi", "/var/run/cdi"];

/**
 * Where `nvidia-ctk` has described the GPU, its CDI device brings nodes and libraries, and only a partition's own nodes are
 * added. Else there are the nodes alone. Throws ClaimError when something that has to be there is not.
 */
export async function nvidiaAccess(host: Host, device: PreparedDevice): Promise<DeviceAccess> {
  const { gpu, partition } = device;
  const described = await toolkitDevices(host);
  const reference = [partition?.uuid, gpu.uuid].find((uuid) => uuid !== undefined && described.has(uuid));
  const own = partition === undefined ? [] : await capabilityNodes(host, gpu.minor, partition);
  const mounts = device.mps === undefined ? [] : [await mpsMount(host, device.device)];
  return {
    nodes: reference === undefined ? [...(await boardNodes(host, gpu.minor)), ...own] : own,
    ...(mounts.length === 0 ? {} : { mounts }),
    references: reference === undefined ? [] : [`${toolkitKind}=${reference}`],
  };
}

async function boardNodes(host: Host, minor: number): Promise<Node[]> {
  const there = new Set((await host.names("/dev")).map((name) => `/dev/${name}`));
  const wanted = [`/dev/nvidia${minor}`, ...required];
  const missing = wanted.filter((path) => !there.has(path));
  if (missing.length > 0) {
    throw new ClaimError(`the host has no ${missing.join(", ")}; run nvidia-modprobe -u -c=${minor} there`);
  }
  return [...wanted, ...usual.filter((path) => there.has(path))].map((path) => ({ path }));
}

/** A partition's GPU instance and compute instance are opened by nodes of their own, which need not exist on the host. */
async function capabilityNodes(host: Host, minor: number, partition: PreparedPartition): Promise<Node[]> {
  const { gpuInstance, computeInstance } = partition;
  const [, major] = /^\s*(\d+) nvidia-caps$/m.exec((await host.text("/proc/devices")) ?? "") ?? [];
  const folder = `/proc/driver/nvidia/capabilities/gpu${minor}/mig/gi${gpuInstance}`;
  const files = [`${folder}/access`, `${folder}/ci${computeInstance ?? 0}/access`];
  return Promise.all(
    files.map(async (file) => {
      const [, number] = /^DeviceFileMinor: (\d+)$/m.exec((await host.text(file)) ?? "") ?? [];
      if (major === undefined || number === undefined) {
        throw new ClaimError(`the host has no ${major === undefined ? "nvidia-caps in /proc/devices" : file}`);
      }
      const path = `/dev/nvidia-caps/nvidia-cap${number}`;
      return { path, type: "c" as const, major: Number(major), minor: Number(number) };
    }),
  );
}

/** The daemon is an administrator's: its life is longer than any claim's. */
async function mpsMount(host: Host, device: string): Promise<string> {
  if ((await host.names(mpsFolder)).includes("control")) return mpsFolder;
  throw new ClaimError(
    `device ${device}: nobody serves MPS in ${mpsFolder}; run nvidia-cuda-mps-control -d on the node`,
  );
}

/** Names of the devices that `nvidia-ctk` has described. A description that cannot be read describes nothing. */
async function toolkitDevices(host: Host): Promise<ReadonlySet<string>> {
  const names = new Set<string>();
  for (const folder of specFolders) {
    const files = (await host.names(folder)).filter((name) => /\.(json|yaml)$/.test(name));
    for (const file of files.filter((name) => claimOfFile(name) === undefined)) {
      const text = await host.text(`${folder}/${file}`);
      if (text?.includes(toolkitKind) !== true) continue;
      const spec = await parseSpec(text, file);
      if (spec?.kind !== toolkitKind) continue;
      for (const { name } of spec.devices ?? []) if (name !== undefined) names.add(name);
    }
  }
  return names;
}

async function parseSpec(
  text: string,
  file: string,
): Promise<{ kind?: string; devices?: { name?: string }[] } | undefined> {
  try {
    // Most hosts have none, or JSON.
    return file.endsWith(".json") ? JSON.parse(text) : (await import("yaml")).parse(text);
  } catch {
    return undefined;
  }
}
