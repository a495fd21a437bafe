import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { beingRead } from "../../../src/dra/driver/inventory.ts";
import type { Machine } from "../../../src/dra/driver/machine.ts";

/** NVIDIA's library as tests have it: built from `fake-nvml.c` with the machine's C compiler. */

const source = fileURLToPath(new URL("fake-nvml.c", import.meta.url));

/** Path of the library; undefined when the machine has no C compiler. */
function buildFakeNvml(): string | undefined {
  const folder = join(tmpdir(), `kllama-fake-nvml-${process.getuid?.() ?? 0}`);
  const hash = createHash("sha256").update(readFileSync(source)).digest("hex").slice(0, 16);
  const library = join(folder, `libnvidia-ml-${hash}.so.1`);
  if (existsSync(library)) return library;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const own = mkdtempSync(join(folder, "build-"));
  try {
    const built = join(own, "library");
    const flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"];
    execFileSync(process.env["CC"] ?? "cc", [...flags, "-o", built, source], {
      stdio: ["ignore", "ignore", "inherit"],
    });
    renameSync(built, library);
    return library;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
}

export const fakeNvml = buildFakeNvml();
/** For the names of tests that are left out. */
export const withoutCompiler =
  fakeNvml === undefined ? " (NOT RUN: no C compiler; install one, on Debian: apt-get install gcc libc6-dev)" : "";

export type FakeMachine = "hgx" | "bridge" | "mig" | "nvl";

/** What the library is told by environment, and files that it reads while it runs. */
export function fakeNvmlFiles(machine: FakeMachine, folder: string) {
  const faults = join(folder, "faults");
  return {
    env: { ...process.env, FAKE_NVML: machine, FAKE_NVML_STATE: join(folder, "board"), FAKE_NVML_FAULTS: faults },
    /** As `fake-nvml.c` describes them; none: all is well again. */
    setFaults: (...lines: string[]): void => writeFileSync(faults, lines.map((line) => `${line}\n`).join("")),
  };
}

/** Resolves when the first look at the machine is over, whatever came of it. */
export function firstLook({ inventory, onChange }: Machine): Promise<void> {
  return new Promise((resolve) => {
    if (inventory().unread !== beingRead) return resolve();
    const unsubscribe = onChange(() => {
      unsubscribe();
      resolve();
    });
  });
}

interface PciFunction {
  /** `0000:1b:00.0`. */
  address: string;
  root: string;
  numa: number;
  files?: Record<string, string>;
}

/** Writes `/sys` as Linux shows these PCI functions; RDMA devices by name, with the address of their function. */
export function writePciTree(root: string, functions: readonly PciFunction[], rdma: Record<string, string> = {}): void {
  const real = new Map<string, string>();
  for (const { address, root: pciRoot, numa, files = {} } of functions) {
    const folder = join(root, "sys/devices", pciRoot, `${pciRoot.slice(3)}:01.0`, address);
    mkdirSync(folder, { recursive: true });
    for (const [name, text] of Object.entries({ numa_node: `${numa}\n`, ...files })) {
      mkdirSync(dirname(join(folder, name)), { recursive: true });
      writeFileSync(join(folder, name), text);
    }
    real.set(address, folder);
    link(folder, join(root, "sys/bus/pci/devices", address));
  }
  for (const [name, address] of Object.entries(rdma))
    link(real.get(address)!, join(root, "sys/class/infiniband", name, "device"));
}

export function link(target: string, path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  symlinkSync(target, path);
}
