import type { Timing } from "../../../kube/timing.ts";
import { type Host, type PciPlace, pciPlaces } from "../host/host.ts";
import { type Look, pollInventory } from "../host/polled-inventory.ts";
import type { DeviceTrouble, Gpu } from "../inventory.ts";
import type { Machine } from "../machine.ts";

/**
 * AMD's GPUs as the kernel's amdgpu and amdkfd drivers show them in sysfs (`docs.kernel.org/gpu/amdgpu`): whole ones only. A
 * board in a compute partition mode other than SPX is left out.
 */

export interface AmdOptions {
  host: Host;
  timing: Timing;
  onWarning(message: string): void;
  refreshMs?: number;
}

const amdVendor = "0x1002";
const defaultRefreshMs = 30_000;

export function openAmdMachine({ host, timing, onWarning, refreshMs }: AmdOptions): Machine {
  const polled = pollInventory({
    look: () => look(host, onWarning),
    timing,
    refreshMs: refreshMs ?? defaultRefreshMs,
    onWarning,
  });
  const noPartitions = async (): Promise<never> => {
    throw new Error("AMD boards are neither cut up nor shared by this driver");
  };
  return {
    inventory: polled.inventory,
    onChange: polled.onChange,
    gpuInstances: async () => [],
    createGpuInstance: noPartitions,
    createComputeInstance: noPartitions,
    destroyGpuInstance: noPartitions,
    setTimeSlice: noPartitions,
    access: async ({ gpu: { amd } }) => ({
      nodes: [
        { path: "/dev/kfd" },
        { path: `/dev/dri/card${amd?.card}` },
        { path: `/dev/dri/renderD${amd?.renderMinor}` },
      ],
      references: [],
    }),
    close: polled.close,
  };
}

/** Numbers N of `/dev/dri/cardN` that are AMD's. */
export async function amdCards(host: Host): Promise<number[]> {
  const cards = (await host.names("/sys/class/drm")).flatMap((name) => /^card(\d+)$/.exec(name)?.[1] ?? []).map(Number);
  const vendors = await Promise.all(cards.map((card) => host.text(`/sys/class/drm/card${card}/device/vendor`)));
  return cards.filter((_, index) => vendors[index] === amdVendor).toSorted((a, b) => a - b);
}

/** Throws what is said of the first board if none can be read. */
async function look(host: Host, onWarning: (message: string) => void): Promise<Look> {
  const nodes = await computeNodes(host);
  const driverVersion = semanticVersion(await host.text("/sys/module/amdgpu/version"));
  const gpus: Gpu[] = [];
  const troubles = new Map<string, Omit<DeviceTrouble, "since">[]>();
  const cards = await Promise.all((await amdCards(host)).map((card) => readCard(host, card, nodes)));
  const found = cards.filter((card): card is Card => card !== undefined && !("why" in card));
  const unreadable = cards.filter((card): card is Unreadable => card !== undefined && "why" in card);
  if (found.length === 0 && unreadable[0] !== undefined) throw new Error(unreadable[0].why);
  for (const { why } of unreadable) onWarning(why);
  const places = await pciPlaces(
    host,
    found.map(({ pciBusID }) => pciBusID),
  );
  for (const card of found) {
    const reason = whyLeftOut(card);
    if (reason !== undefined) {
      onWarning(`GPU ${card.pciBusID} ${reason}`);
      continue;
    }
    const { partitionMode: _, uniqueId, errors, ...rest } = card;
    const gpu = { ...rest, uuid: `GPU-${uniqueId.toString(16).padStart(16, "0")}` };
    const { nics = [], ...place }: Partial<PciPlace> = places.get(gpu.pciBusID) ?? {};
    const version = driverVersion === undefined ? {} : { driverVersion };
    gpus.push({ ...gpu, ...version, ...place, ...(nics.length === 0 ? {} : { nics }) });
    if (errors > 0) {
      const message = `${errors} uncorrected memory errors; reset the GPU`;
      troubles.set(gpu.uuid, [{ key: "ecc", value: "uncorrected", message }]);
    }
  }
  return { gpus, troubles, unreadable };
}

type Card = Omit<Gpu, "uuid" | "pcieRoot" | "numaNode" | "nics"> & {
  /** As amdkfd has it: by this number ROCm tells GPUs apart. 0: it has none. */
  uniqueId: bigint;
  partitionMode?: string;
  errors: number;
};
interface Unreadable {
  why: string;
}

/** undefined: it is not. */
function whyLeftOut({ partitionMode, uniqueId }: Card): string | undefined {
  if (partitionMode !== undefined && partitionMode !== "SPX")
    return `is in compute partition mode ${partitionMode} and left out; write SPX to use it`;
  // Of the list that a container gets, ROCm heeds nothing from the first name on that it does not know.
  if (uniqueId === 0n)
    return "is left out: amdkfd tells no unique_id of it, by which ROCm would show it to a container; update the amdgpu driver";
  return undefined;
}

/** undefined: a card that computes nothing, such as a display adapter. */
async function readCard(host: Host, card: number, nodes: ComputeNodes): Promise<Card | Unreadable | undefined> {
  const device = `/sys/class/drm/card${card}/device`;
  const pciBusID = (await host.target(device))?.split("/").at(-1);
  const renderName = (await host.names(`${device}/drm`)).find((name) => name.startsWith("renderD"));
  const renderMinor = Number(renderName?.slice("renderD".length) ?? Number.NaN);
  const node = nodes.byRenderMinor.get(renderMinor);
  if (node === undefined && nodes.areSomeHidden && pciBusID !== undefined && renderName !== undefined) {
    const remedy = "let the node agent open the GPUs (privileged)";
    return { why: `GPU ${pciBusID}: its node in ${nodesFolder} cannot be read; ${remedy}` };
  }
  const target = gfxTarget(Number(node?.get("gfx_target_version") ?? 0));
  if (pciBusID === undefined || node === undefined || target === undefined) return undefined;
  const read = (name: string): Promise<string | undefined> => host.text(`${device}/${name}`);
  const hive = BigInt(node.get("hive_id") ?? 0);
  const partitionMode = await read("current_compute_partition");
  return {
    minor: card,
    uniqueId: BigInt(node.get("unique_id") ?? 0),
    // Boards without a name in their flash have an empty one.
    productName: (await read("product_name")) || `AMD ${target}`,
    memoryBytes: Number((await read("mem_info_vram_total")) ?? 0),
    pciBusID,
    amd: { target, card, renderMinor, deviceId: (await read("device")) ?? "" },
    // XGMI joins the GPUs of one hive as NVLink does.
    ...(hive === 0n ? {} : { nvlinkDomain: `xgmi-${hive.toString(16)}` }),
    ...(partitionMode === undefined ? {} : { partitionMode }),
    errors: Number(/^ue: (\d+)/m.exec((await read("ras/umc_err_count")) ?? "")?.[1] ?? 0),
  };
}

const nodesFolder = "/sys/class/kfd/kfd/topology/nodes";

interface ComputeNodes {
  /** Name → value of each line of a node's properties. */
  byRenderMinor: ReadonlyMap<number, ReadonlyMap<string, string>>;
  /** The kernel tells of a GPU's node only who may open the GPU (`kfd_devcgroup_check_permission`). */
  areSomeHidden: boolean;
}

async function computeNodes(host: Host): Promise<ComputeNodes> {
  const names = await host.names(nodesFolder);
  const texts = await Promise.all(names.map((name) => host.text(`${nodesFolder}/${name}/properties`)));
  const nodes = texts.flatMap((text) => {
    const lines = text?.split("\n").map((line) => line.split(" ", 2) as [string, string]);
    return lines === undefined ? [] : [new Map(lines)];
  });
  return {
    byRenderMinor: new Map(nodes.map((node) => [Number(node.get("drm_render_minor") ?? -1), node] as const)),
    areSomeHidden: nodes.length < names.length,
  };
}

/** 90402 → `gfx942`: minor version and stepping are hexadecimal digits. 0 is a CPU. */
function gfxTarget(version: number): string | undefined {
  if (!(version > 0)) return undefined;
  const [major, minor, stepping] = [Math.floor(version / 10_000), Math.floor(version / 100) % 100, version % 100];
  return `gfx${major}${minor.toString(16)}${stepping.toString(16)}`;
}

function semanticVersion(text: string | undefined): string | undefined {
  const [, major, minor, patch] = /^(\d+)\.(\d+)\.(\d+)/.exec(text ?? "") ?? [];
  return major === undefined ? undefined : `${Number(major)}.${Number(minor)}.${Number(patch)}`;
}
