import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { parse } from "yaml";
import { type CdiSpec, specFile } from "../../../../src/dra/driver/cdi.ts";
import { claimObject, node, referenceTo } from "../../../support/driver.ts";
import { socketsOfPod } from "../../../support/driver-node.ts";
import { connectKubelet, type KubeletClient } from "../../../support/kubelet-client.ts";
import { answersGetInfo, type ClaimServer, serveClaims } from "../../../support/node-agent-process.ts";
import { fakeNvml } from "../../../support/nvml/fake.ts";

/**
 * The node agent with what its DaemonSet gives it and no more: its mounts, a root that is read-only, no capability. A mount
 * namespace and chroot stand for the container runtime, a tree of files for the host, the fake library for NVIDIA's, with boards that are cut up.
 */

interface DaemonSet {
  spec: {
    template: {
      spec: {
        containers: {
          args: string[];
          volumeMounts: { name: string; mountPath: string; readOnly?: boolean }[];
          securityContext: object;
        }[];
        volumes: { name: string; hostPath: { path: string; type: string } }[];
      };
    };
  };
}

const manifest = parse(readFileSync("deploy/node-agent/daemon-set.yaml", "utf8")) as DaemonSet;
const { containers, volumes } = manifest.spec.template.spec;
const { args, volumeMounts, securityContext } = containers[0]!;

/** As root, who may mount file systems that nobody else sees. */
const mayMount =
  process.getuid?.() === 0 &&
  spawnSync("unshare", ["-m", "mount", "-t", "tmpfs", "none", "/mnt"]).status === 0 &&
  spawnSync("setpriv", ["--version"]).status === 0;
const isLeftOut = !mayMount || fakeNvml === undefined;
const leftOut = isLeftOut ? " (NOT RUN: needs root, unshare, setpriv and a C compiler)" : "";

/** `ROOT [FROM TO ro|rw]… -- COMMAND…`: builds the container's root and runs the command in it. */
const script = `set -eu
root=$1
shift
mount --make-rprivate /
mount -t tmpfs none "$root"
bind() {
  if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root$(dirname "$2")"; : >"$root$2"; fi
  mount --rbind "$1" "$root$2"
  if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
}
for name in bin lib lib64 sbin usr; do
  if [ -L "/$name" ]; then cp -d "/$name" "$root/"; elif [ -d "/$name" ]; then bind "/$name" "/$name" ro; fi
done
while [ "$1" != -- ]; do bind "$1" "$2" "$3"; shift 3; done
shift
mount -o remount,ro "$root"
exec chroot "$root" setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
`;

const podUid = "uid-1";
const board = "GPU-00000000-0000-4000-8000-000000000000";
const commonNodes = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"];
let folder: string;
let server: ClaimServer;
let agent: ChildProcess;
let exited: Promise<number | null>;
let kubelet: KubeletClient;
/** What Linux says of the process while it runs: proc_pid_status(5), proc_pid_mountinfo(5). */
let status: string;
let mountinfo: string;
const host = (path: string): string => join(folder, "h", path);

function write(path: string, text = ""): void {
  mkdirSync(dirname(host(path)), { recursive: true });
  writeFileSync(host(path), text);
}

/** Before the first claim; the board's partitions have the instances 1 to 3. */
function writeHost(): void {
  for (const { path, type } of volumes.map(({ hostPath }) => hostPath)) {
    mkdirSync(host(type === "File" ? dirname(path) : path), { recursive: true });
  }
  for (const name of commonNodes) write(name);
  write("proc/devices", "Character devices:\n237 nvidia-caps\n");
  for (const instance of [1, 2, 3]) {
    const mig = `proc/driver/nvidia/capabilities/gpu0/mig/gi${instance}`;
    write(`${mig}/access`, `DeviceFileMinor: ${10 * instance}\n`);
    write(`${mig}/ci0/access`, `DeviceFileMinor: ${10 * instance + 1}\n`);
  }
  write("sys/devices/pci0000:00/0000:00:01.0/0000:07:00.0/numa_node", "1\n");
  mkdirSync(host("sys/bus/pci/devices"), { recursive: true });
  const target = "../../../devices/pci0000:00/0000:00:01.0/0000:07:00.0";
  symlinkSync(target, host("sys/bus/pci/devices/0000:07:00.0"));
}

beforeAll(async () => {
  if (isLeftOut) return;
  folder = mkdtempSync(join(tmpdir(), "kl-"));
  writeHost();
  server = await serveClaims({ endOfList: true });
  const root = join(folder, "root");
  const kubeconfig = join(folder, "kubeconfig");
  mkdirSync(root);
  writeFileSync(kubeconfig, server.kubeconfig);
  const repository = fileURLToPath(new URL("../../../../", import.meta.url));
  const image = [
    ...[repository, "/kllama", "ro", fakeNvml!, "/nvidia/libnvidia-ml.so.1", "ro"],
    ...[kubeconfig, "/var/run/secrets/kubeconfig", "ro", "/proc", "/proc", "rw", "/dev/null", "/dev/null", "rw"],
  ];
  const mounts = volumeMounts.flatMap(({ name, mountPath, readOnly }) => {
    const { path } = volumes.find((volume) => volume.name === name)!.hostPath;
    return [host(path), mountPath, readOnly === true ? "ro" : "rw"];
  });
  const flags = args
    .map((text) => text.replace("$(NODE_NAME)", node).replace("$(POD_UID)", podUid))
    .map((text) => text.replace(/^--metrics-address=.*/, "--metrics-address=127.0.0.1:0"));
  const own = ["--inventory", "nvidia", "--nvml-library", "/nvidia/libnvidia-ml.so.1", "--partition-gpus", "all"];
  const log = openSync(join(folder, "log"), "a");
  agent = spawn(
    "unshare",
    ["-m", "sh", "-c", script, "sh", root, ...image, ...mounts, "--", "/kllama/bin/kllama", ...flags, ...own],
    {
      env: {
        ...{ PATH: process.env["PATH"], KUBECONFIG: "/var/run/secrets/kubeconfig" },
        ...{ FAKE_NVML: "mig", FAKE_NVML_STATE: "/var/lib/kllama/board" },
      },
      stdio: ["ignore", log, log],
    },
  );
  closeSync(log);
  exited = new Promise((resolve) => agent.once("exit", resolve));
  const ended = exited.then((code) => {
    throw new Error(`ended with ${code}: ${readFileSync(join(folder, "log"), "utf8")}`);
  });
  ended.catch(() => undefined);
  const opened = vi.waitFor(() => socketsOfPod(host("var/lib/kubelet"), podUid), { timeout: 50_000, interval: 20 });
  const { registration, dra } = await Promise.race([opened, ended]);
  await Promise.race([answersGetInfo(registration), ended]);
  kubelet = connectKubelet(registration, dra);
  status = readFileSync(`/proc/${agent.pid}/status`, "utf8");
  mountinfo = readFileSync(`/proc/${agent.pid}/mountinfo`, "utf8");
}, 60_000);

afterAll(async () => {
  if (folder === undefined) return;
  kubelet?.close();
  agent?.kill("SIGKILL");
  await exited;
  server?.close();
  rmSync(folder, { recursive: true, force: true });
});

describe.skipIf(isLeftOut)(`the node agent as its DaemonSet runs it${leftOut}`, () => {
  test("has no capability and a root that is read-only, as the manifest says", () => {
    expect(securityContext).toEqual({
      ...{ privileged: false, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true },
      capabilities: { drop: ["ALL"] },
    });
    for (const set of ["CapEff", "CapPrm", "CapBnd"]) expect(status).toMatch(new RegExp(`^${set}:\\s+0+$`, "m"));
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
    expect(mountinfo).toMatch(/ \/ \/ ro[ ,].* - tmpfs /m);
  });

  test("reads the host, publishes its devices, prepares and unprepares claims, and ends as it is told", async () => {
    const soon = { timeout: 20_000, interval: 50 };
    await vi.waitFor(() => expect(server.written.join("\n")).toContain("gpu-0-mig-2g20gb-14-2"), soon);
    for (const text of [
      '"resource.kubernetes.io/pcieRoot":{"string":"pci0000:00"}',
      '"resource.kubernetes.io/numaNode":{"int":1}',
    ]) {
      expect(server.written.join("\n")).toContain(text);
    }
    const description = `cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: [{ name: ${board} }]\n`;
    const references = [];
    for (const [index, described] of ["etc/cdi/nvidia.yaml", "var/run/cdi/nvidia.yaml", undefined].entries()) {
      if (described !== undefined) write(described, description);
      const claim = claimObject(`c${index}`, [`gpus gpu-0-mig-2g20gb-14-${2 * index}`]);
      server.claims.set(claim.metadata.name, claim);
      references.push(referenceTo(claim));
      const uid = claim.metadata.uid!;
      const more = described === undefined ? [] : [`nvidia.com/gpu=${board}`];
      expect((await kubelet.prepare([referenceTo(claim)]))[uid]).toMatchObject({
        error: "",
        devices: [{ cdi_device_ids: [`gpu.kllama.ai/claim=${uid}-gpus`, ...more] }],
      });
      const spec = JSON.parse(readFileSync(host(`var/run/cdi/${specFile(uid)}`), "utf8")) as CdiSpec;
      const minors = [10 * (index + 1), 10 * (index + 1) + 1];
      expect(spec.devices[0]?.containerEdits.deviceNodes).toEqual([
        ...(described === undefined ? commonNodes.map((path) => ({ path })) : []),
        ...minors.map((minor) => ({ path: `/dev/nvidia-caps/nvidia-cap${minor}`, type: "c", major: 237, minor })),
      ]);
      expect(readFileSync(host("var/lib/kllama/checkpoint.json"), "utf8")).toContain(uid);
      if (described !== undefined) rmSync(host(described));
    }
    for (const { error } of Object.values(await kubelet.unprepare(references))) expect(error).toBe("");
    expect(readdirSync(host("var/run/cdi"))).toEqual([]);
    agent.kill("SIGTERM");
    expect(await exited).toBe(0);
    expect(readdirSync(host("var/lib/kubelet/plugins_registry"))).toEqual([]);
  });
});
