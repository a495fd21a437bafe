import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { openAmdMachine } from "../../../../../src/dra/driver/amd/machine.ts";
import { openHost } from "../../../../../src/dra/driver/host/host.ts";
import { openHostMachine } from "../../../../../src/dra/driver/host/open-machine.ts";
import type { Machine } from "../../../../../src/dra/driver/machine.ts";
import { poolSlices } from "../../../../../src/dra/driver/slices.ts";
import { systemTiming } from "../../../../../src/kube/timing.ts";
import { firstLook, link, writePciTree } from "../../../../support/nvml/fake.ts";

/** A tree of files as amdgpu and amdkfd lay them out (`docs.kernel.org/gpu/amdgpu/driver-misc.html`, KFD's sysfs topology). */

const soon = { timeout: 20_000 };

let root: string;
let machine: Machine | undefined;
const warnings: string[] = [];

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "kllama-amd-"));
  warnings.length = 0;
});
afterEach(async () => {
  await machine?.close();
  rmSync(root, { recursive: true, force: true });
});

async function read(opened: Machine): Promise<Machine> {
  await firstLook(opened);
  return opened;
}

interface Card {
  card: number;
  address: string;
  vendor?: string;
  mode?: string;
  /** Absent: no compute node. */
  target?: number;
  /** Default: one of its own. */
  uniqueId?: bigint;
  /** Of the board's flash; default: MI300X. */
  product?: string;
}

const uniqueIdOf = (card: number): bigint => 0x0b0ae2c6d4d2a000n + BigInt(16 * card);

function write(cards: readonly Card[]): void {
  writePciTree(
    root,
    cards.map(({ card, address, vendor = "0x1002", mode = "SPX", product = "AMD Instinct MI300X OAM" }) => ({
      address,
      root: `pci${address.slice(0, 7)}`,
      numa: card % 2,
      files: {
        vendor: `${vendor}\n`,
        device: "0x74a1\n",
        class: "0x120000\n",
        product_name: `${product}\n`,
        mem_info_vram_total: "206141652992\n",
        current_compute_partition: `${mode}\n`,
        [`drm/renderD${128 + card}/dev`]: `226:${128 + card}\n`,
        "ras/umc_err_count": "ue: 0\nce: 3\n",
      },
    })),
  );
  for (const { card, address, target, uniqueId = uniqueIdOf(card) } of cards) {
    link(join(root, "sys/bus/pci/devices", address), join(root, `sys/class/drm/card${card}/device`));
    if (target !== undefined) writeNode(card + 1, { target, renderMinor: 128 + card, hive: 0x1234, uniqueId });
  }
  // Nodes of CPUs come first.
  writeNode(0, { target: 0, renderMinor: 0, hive: 0, uniqueId: 0n });
  mkdirSync(join(root, "sys/module/amdgpu"), { recursive: true });
  writeFileSync(join(root, "sys/module/amdgpu/version"), "6.12.12\n");
}

const nodeFolder = (number: number): string => join(root, "sys/class/kfd/kfd/topology/nodes", String(number));

function writeNode(
  number: number,
  {
    target,
    renderMinor,
    hive,
    uniqueId,
  }: Record<"target" | "renderMinor" | "hive", number> & Record<"uniqueId", bigint>,
): void {
  const folder = nodeFolder(number);
  mkdirSync(folder, { recursive: true });
  const lines = [
    `simd_count 1216`,
    `gfx_target_version ${target}`,
    `drm_render_minor ${renderMinor}`,
    `hive_id ${hive}`,
    `unique_id ${uniqueId}`,
  ];
  writeFileSync(join(folder, "properties"), `${lines.join("\n")}\n`);
}

const open = () =>
  read(
    openAmdMachine({
      host: openHost(root),
      timing: systemTiming,
      refreshMs: 30,
      onWarning: (text) => warnings.push(text),
    }),
  );
const published = ({ inventory }: Machine) =>
  poolSlices(inventory(), { nodeName: "n", nodeUid: "u", generation: 1 }).flatMap(({ spec }) => spec.devices ?? []);

test("whole GPUs with their target, place and hive", async () => {
  write([
    { card: 1, address: "0000:05:00.0", target: 90402 },
    { card: 2, address: "0000:26:00.0", target: 90402 },
  ]);
  machine = await open();
  const [first, second] = published(machine);
  expect(first).toEqual({
    name: "gpu-1",
    attributes: {
      type: { string: "gpu" },
      uuid: { string: "GPU-0b0ae2c6d4d2a010" },
      index: { int: 1 },
      productName: { string: "AMD Instinct MI300X OAM" },
      driverVersion: { version: "6.12.12" },
      gfxTarget: { string: "gfx942" },
      cardIndex: { int: 1 },
      renderIndex: { int: 129 },
      deviceID: { string: "0x74a1" },
      "resource.kubernetes.io/pciBusID": { string: "0000:05:00.0" },
      "resource.kubernetes.io/pcieRoot": { string: "pci0000:05" },
      "resource.kubernetes.io/numaNode": { int: 1 },
      nvlinkDomain: { string: "xgmi-1234" },
    },
    capacity: { memory: { value: "196592Mi" } },
  });
  expect(second?.attributes?.["nvlinkDomain"]).toEqual({ string: "xgmi-1234" });
});

test("cards of others, cards that compute nothing, and boards in parts are left out", async () => {
  write([
    { card: 0, address: "0000:02:00.0", vendor: "0x1a03" },
    { card: 1, address: "0000:05:00.0", target: 90010 },
    { card: 2, address: "0000:26:00.0" },
    { card: 3, address: "0000:46:00.0", target: 90402, mode: "CPX" },
  ]);
  machine = await open();
  expect(machine.inventory().gpus.map((gpu) => [gpu.minor, gpu.amd?.target])).toEqual([[1, "gfx90a"]]);
  expect(warnings[0]).toContain("GPU 0000:46:00.0 is in compute partition mode CPX");
});

test("a board without a unique ID is left out: ROCm could not be told of it, nor of those behind it in the list", async () => {
  write([
    { card: 1, address: "0000:05:00.0", target: 90402 },
    { card: 2, address: "0000:26:00.0", target: 100100, uniqueId: 0n },
  ]);
  machine = await open();
  expect(machine.inventory().gpus.map(({ uuid }) => uuid)).toEqual(["GPU-0b0ae2c6d4d2a010"]);
  expect(warnings).toContain(
    "GPU 0000:26:00.0 is left out: amdkfd tells no unique_id of it, by which ROCm would show it to a container; update the amdgpu driver",
  );
});

test("a board whose flash has no name gets that of its target", async () => {
  write([{ card: 1, address: "0000:05:00.0", target: 90402, product: "" }]);
  machine = await open();
  expect(published(machine)[0]?.attributes?.["productName"]).toEqual({ string: "AMD gfx942" });
});

// The kernel tells of a GPU's node only who may open the GPU.
test("boards whose compute node may not be read are an error, and not called lost", async () => {
  write([
    { card: 1, address: "0000:05:00.0", target: 90402 },
    { card: 2, address: "0000:26:00.0", target: 90402 },
  ]);
  machine = await open();
  const hide = (card: number): void => {
    rmSync(join(nodeFolder(card + 1), "properties"));
    mkdirSync(join(nodeFolder(card + 1), "properties"));
  };
  hide(1);
  const why =
    "GPU 0000:05:00.0: its node in /sys/class/kfd/kfd/topology/nodes cannot be read; let the node agent open the GPUs (privileged)";
  const trouble = { key: "unreadable", message: `cannot be read: ${why}` };
  await vi.waitFor(() => expect(machine!.inventory().troubles?.["gpu-1"]).toMatchObject([trouble]), soon);
  expect(machine.inventory().losses).toEqual({});
  expect(published(machine)).toHaveLength(2);
  hide(2);
  await vi.waitFor(() => expect(machine!.inventory().stale).toBe(why), soon);
  await machine.close();
  machine = await open();
  expect(machine.inventory()).toMatchObject({ gpus: [], unread: why });
});

test("uncorrected memory errors become a taint, a card that goes a lost device", async () => {
  write([{ card: 1, address: "0000:05:00.0", target: 90402 }]);
  machine = await open();
  const device = join(root, "sys/class/drm/card1/device");
  writeFileSync(join(device, "ras/umc_err_count"), "ue: 2\nce: 0\n");
  const taints = () => published(machine!)[0]?.taints?.map(({ key, effect }) => [key, effect]);
  await vi.waitFor(() => expect(taints()).toEqual([["gpu.kllama.ai/ecc", "NoSchedule"]]), soon);
  rmSync(device);
  await vi.waitFor(() => expect(taints()).toEqual([["gpu.kllama.ai/gpu-lost", "NoExecute"]]), soon);
});

test("auto finds AMD by its cards, NVIDIA by its boards, and publishes nothing where there is neither", async () => {
  const auto = async () =>
    read(
      await openHostMachine({
        ...{ kind: "auto", root, nvmlLibrary: join(root, "none.so"), stateFolder: root, partitionable: [] },
        onWarning: (text) => warnings.push(text),
      }),
    );
  machine = await auto();
  expect(machine.inventory()).toEqual({ gpus: [], losses: {}, troubles: {} });
  expect(warnings).toEqual(["this machine has no GPU of NVIDIA or AMD; it publishes no device"]);
  await machine.close();
  write([{ card: 1, address: "0000:05:00.0", target: 90402 }]);
  machine = await auto();
  expect(machine.inventory().gpus).toHaveLength(1);
  await machine.close();
  const folder = join(root, "sys/devices/pci0000:80/0000:80:01.0/0000:81:00.0");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "vendor"), "0x10de\n");
  writeFileSync(join(folder, "class"), "0x030200\n");
  link(folder, join(root, "sys/bus/pci/devices/0000:81:00.0"));
  machine = await auto();
  expect(machine.inventory().unread).toContain("none.so");
});
