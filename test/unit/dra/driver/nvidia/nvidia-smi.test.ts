import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { gpusOf } from "../../../../../src/dra/driver/nvidia/boards.ts";
import { parseNvidiaSmi, readNvidiaSmi, setTimeSlice } from "../../../../../src/dra/driver/nvidia/nvidia-smi.ts";

/** The elements that are read, with neighbours of the same names, as nvidia-smi(1) of driver 570 nests them. */
function gpu(index: number, busId: string, mig = "Disabled"): string {
  return `	<gpu id="${busId}">
		<product_name>NVIDIA H100 PCIe</product_name>
		<product_brand>NVIDIA</product_brand>
		<product_architecture>Hopper</product_architecture>
		<mig_mode>
			<current_mig>${mig}</current_mig>
			<pending_mig>${mig}</pending_mig>
		</mig_mode>
		<uuid>GPU-0000000${index}-0000-4000-8000-000000000000</uuid>
		<minor_number>${index}</minor_number>
		<fb_memory_usage>
			<total>81559 MiB</total>
			<reserved>640 MiB</reserved>
		</fb_memory_usage>
		<bar1_memory_usage>
			<total>131072 MiB</total>
		</bar1_memory_usage>
	</gpu>`;
}
const busIds = ["00000000:17:00.0", "00000000:65:00.0", "00000000:CA:00.0", "00000000:E3:00.0"];
const document = (gpus: string[]): string => `<?xml version="1.0" ?>
<nvidia_smi_log>
	<timestamp>Mon Jan  5 10:00:00 2026</timestamp>
	<driver_version>570.133.20</driver_version>
	<cuda_version>12.8</cuda_version>
	<attached_gpus>${gpus.length}</attached_gpus>
${gpus.join("\n")}
</nvidia_smi_log>
`;
const capabilities = busIds.map((_, i) => `GPU-0000000${i}-0000-4000-8000-000000000000, 9.0`).join("\n");
const topology = `	GPU0	GPU1	GPU2	GPU3	NIC0	CPU Affinity	NUMA Affinity	GPU NUMA ID
GPU0	 X 	NV12	SYS	SYS	PIX	0-31	0		N/A
GPU1	NV12	 X 	SYS	SYS	SYS	0-31	0		N/A
GPU2	SYS	SYS	 X 	NV12	SYS	32-63	1		N/A
GPU3	SYS	SYS	NV12	 X 	SYS	32-63	1		N/A
NIC0	PIX	SYS	SYS	SYS	 X

Legend:
  NV#  = Connection traversing a bonded set of # NVLinks
`;

describe("nvidia-smi", () => {
  test("tells GPUs and bridged pairs", () => {
    const reading = parseNvidiaSmi(document(busIds.map((busId, i) => gpu(i, busId))), capabilities, topology);
    const gpus = gpusOf(reading, new Map(), new Set());
    expect(gpus[0]).toEqual({
      minor: 0,
      uuid: "GPU-00000000-0000-4000-8000-000000000000",
      productName: "NVIDIA H100 PCIe",
      brand: "NVIDIA",
      architecture: "Hopper",
      cudaComputeCapability: "9.0.0",
      driverVersion: "570.133.20",
      cudaDriverVersion: "12.8.0",
      memoryBytes: 81559 * 2 ** 20,
      pciBusID: "0000:17:00.0",
      nvlinkDomain: expect.stringMatching(/^nvlink-/),
    });
    const [a, b, c, d] = gpus.map(({ nvlinkDomain }) => nvlinkDomain);
    expect([a === b, c === d, a === c]).toEqual([true, true, false]);
  });

  test("leaves out boards in MIG mode, and links when there is no topology", () => {
    const gpus = [gpu(0, busIds[0]!, "Enabled"), gpu(1, busIds[1]!)];
    const { boards } = parseNvidiaSmi(document(gpus), capabilities, "");
    expect(boards.map(({ minor, links }) => [minor, links])).toEqual([[1, []]]);
  });

  test.for([
    ["an output without a version", "<nvidia_smi_log></nvidia_smi_log>", "driver_version is missing"],
    // Where libcuda is missing. No slice with such a version would be taken.
    [
      "a CUDA version that is not told",
      document([]).replace(/<cuda_version>.*?</, "<cuda_version>N/A<"),
      "cuda_version",
    ],
    [
      "a GPU without a UUID",
      document(['<gpu id="00000000:17:00.0"></gpu>']),
      "GPU 00000000:17:00.0: uuid, minor_number",
    ],
  ])("%s is refused", ([, text, error]) => {
    expect(() => parseNvidiaSmi(text!, capabilities, topology)).toThrow(error);
  });

  test("is run with a time limit", async () => {
    const folder = mkdtempSync(join(tmpdir(), "kllama-smi-"));
    const program = join(folder, "nvidia-smi");
    const says = (script: string): void => {
      writeFileSync(program, `#!/bin/sh\n${script}\n`);
      chmodSync(program, 0o755);
    };
    try {
      writeFileSync(join(folder, "xml"), document([gpu(0, busIds[0]!)]));
      says(`case "$1" in -q) cat ${folder}/xml;; topo) exit 1;; *) echo '${capabilities.split("\n")[0]}';; esac`);
      expect((await readNvidiaSmi(program, 5_000)).boards).toHaveLength(1);
      says("exec sleep 60");
      await expect(readNvidiaSmi(program, 300)).rejects.toThrow("Command failed");
      await expect(readNvidiaSmi(join(folder, "none"), 300)).rejects.toThrow("ENOENT");
      await expect(readNvidiaSmi(program, 60_000, AbortSignal.timeout(300))).rejects.toThrow("aborted");
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test("whose end this process hears of late, because it got no core meanwhile, does not hang", async () => {
    const folder = mkdtempSync(join(tmpdir(), "kllama-smi-"));
    const program = join(folder, "nvidia-smi");
    try {
      writeFileSync(program, "#!/bin/sh\nexec sleep 60\n");
      chmodSync(program, 0o755);
      const reading = readNvidiaSmi(program, 300);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_500);
      await expect(reading).rejects.toThrow("Command failed");
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test("sets time slices by their numbers", async () => {
    const folder = mkdtempSync(join(tmpdir(), "kllama-smi-"));
    const program = join(folder, "nvidia-smi");
    try {
      writeFileSync(program, `#!/bin/sh\necho "$@" >> ${folder}/asked\n`);
      chmodSync(program, 0o755);
      for (const interval of ["Default", "Short", "Medium", "Long"] as const)
        await setTimeSlice(program, 5_000, "GPU-1", interval);
      expect(readFileSync(join(folder, "asked"), "utf8").trim().split("\n")).toEqual(
        [0, 1, 2, 3].map((number) => `compute-policy -i GPU-1 --set-timeslice=${number}`),
      );
      writeFileSync(program, "#!/bin/sh\necho 'Not Supported' >&2\nexit 3\n");
      await expect(setTimeSlice(program, 5_000, "GPU-1", "Long")).rejects.toThrow("Not Supported");
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
