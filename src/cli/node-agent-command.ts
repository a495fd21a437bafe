import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { flushCompileCache } from "node:module";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import type { OnEffect } from "../dra/driver/durable-files.ts";
import type { Machine } from "../dra/driver/machine.ts";
import { removeLeftOver, removeStale, socketPaths } from "../dra/driver/socket-files.ts";
import { defineCommand, type Flag, type FlagValues, UsageError } from "./command.ts";
import { failpoint } from "./failpoint.ts";
import { parseListen } from "./listen.ts";
import { createLog, serve, serviceFlags } from "./service.ts";

const flags = {
  ...serviceFlags,
  "node-name": { type: "string", value: "NAME", describe: "Node that this process serves." },
  inventory: {
    type: "string",
    value: "KIND",
    default: "auto",
    describe:
      "Where the devices come from: nvidia (NVML, else nvidia-smi), amd (sysfs), auto (what is there), or simulated:NODE_TYPE, the machine of that name in the fleet file.",
  },
  "partition-gpus": {
    type: "string",
    value: "LIST",
    describe:
      "NVIDIA boards in MIG mode that are cut up for claims: UUIDs or minor numbers with commas between, or all. Default: none; they are used as they are cut.",
  },
  "nvml-library": {
    type: "string",
    value: "FILE",
    default: "libnvidia-ml.so.1",
    describe: "NVIDIA's management library.",
  },
  "host-root": {
    type: "string",
    value: "DIR",
    default: "/",
    describe: "Where the host's root is mounted, for /proc, /sys and /dev.",
  },
  fleet: { type: "string", value: "FILE", describe: "Fleet of the NODE_TYPE. Default: fleets/default.yaml of kllama." },
  "kubelet-dir": {
    type: "string",
    value: "DIR",
    default: "/var/lib/kubelet",
    describe: "The kubelet's folder; sockets go to plugins_registry and plugins/gpu.kllama.ai in it.",
  },
  "pod-uid": {
    type: "string",
    value: "UID",
    describe:
      "UID of the pod that this runs in. Gives its sockets names of their own, so that in a rolling update (maxSurge 1) its successor starts before it ends.",
  },
  "cdi-dir": {
    type: "string",
    value: "DIR",
    default: "/var/run/cdi",
    describe: "Where the container runtime looks for CDI specs.",
  },
  "state-dir": {
    type: "string",
    value: "DIR",
    default: "/var/lib/kllama",
    describe: "Holds the checkpoint of prepared claims; must outlive the process.",
  },
  "metrics-address": {
    type: "string",
    value: "HOST:PORT",
    default: "127.0.0.1:9445",
    describe: "Where /metrics, /healthz and /readyz are served. Port 0: any.",
  },
} as const satisfies Record<string, Flag>;

export const nodeAgentCommand = defineCommand({
  name: "node-agent",
  summary: "Run the DRA driver of one node: publishes devices, prepares claims.",
  description:
    "Registers with the kubelet as driver gpu.kllama.ai, publishes the machine's devices as ResourceSlices and prepares the claims that the kubelet asks for: one CDI spec for each. What is prepared stands in a checkpoint, so it may be killed at any time. One per node; it only needs to run while pods start and end.",
  flags,
  examples: [
    {
      what: "The machine it runs on; board 0 is cut up for claims",
      command: "kllama node-agent --node-name gpu-7 --partition-gpus 0",
    },
    {
      what: "A node of the demo's fleet, without any GPU",
      command: "kllama node-agent --node-name dgx-0 --inventory simulated:dgx-h100 --kubeconfig node.kubeconfig",
    },
  ],
  async run(values, _streams) {
    const nodeName = values["node-name"];
    if (nodeName === undefined) throw new UsageError("--node-name NAME is missing; give the name of this Node");
    const podUid = values["pod-uid"];
    if (podUid !== undefined && !/^[0-9A-Za-z-]{1,63}$/.test(podUid)) {
      throw new UsageError(`--pod-uid ${podUid} is no UID; give metadata.uid of the pod by the downward API`);
    }
    const listen = parseListen("metrics-address", values["metrics-address"]);
    const log = createLog("node-agent", values["log-level"]);
    const onEffect = failpoint(process.env["KLLAMA_FAILPOINT"]) ?? (() => undefined);
    const stateFolder = values["state-dir"];
    const kubeletFolder = values["kubelet-dir"];
    // Anew at each start, also in the same pod: a name that it does not know the kubelet registers when it looks next, which it does
    // once a second. A name that it knows it first has to find gone, which takes a look of its own.
    const instance = podUid === undefined ? undefined : `${podUid}-${randomBytes(2).toString("hex")}`;
    if (instance !== undefined) await removeLeftOver(kubeletFolder);
    else await removeStale(socketPaths(kubeletFolder, undefined).registration).catch(() => undefined);
    const onWarning = (message: string): void => log.warn({}, message);
    const machine = await openMachine(values, nodeName, { onEffect, onWarning });
    return serve(log, async () => {
      const [{ startNodeAgent }, { createDriverMetrics, serveMetrics }, { createClient }, { loadConnection }] =
        await Promise.all([
          import("../dra/driver/node-agent.ts"),
          import("../dra/driver/metrics.ts"),
          import("../kube/client.ts"),
          import("../kube/connection.ts"),
        ]);
      const client = createClient(await loadConnection({ kubeconfigPath: values.kubeconfig }), {
        userAgent: "kllama-node-agent",
        // One per node, of which there are many: a hundred pods at once are read over these few.
        maxConnections: 8,
      });
      const metrics = createDriverMetrics();
      const bootId = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
      const agent = await startNodeAgent({
        ...{ client, nodeName, machine, stateFolder, bootId, metrics, log, onEffect },
        kubeletFolder,
        instance,
        cdiFolder: values["cdi-dir"],
      });
      const server = await serveMetrics(metrics.registry, listen, agent);
      log.info({ url: server.url }, "serving metrics");
      // bin/start.mjs keeps what was compiled. Now, because whoever is killed cannot do it later.
      flushCompileCache();
      return {
        ready: Promise.resolve(),
        async stop() {
          await server.close();
          await agent.stop();
          await machine.close();
          await client.close();
        },
      };
    });
  },
});

interface MachineHooks {
  onEffect: OnEffect;
  onWarning(message: string): void;
}

async function openMachine(values: FlagValues<typeof flags>, nodeName: string, hooks: MachineHooks): Promise<Machine> {
  const { inventory } = values;
  if (inventory === "auto" || inventory === "nvidia" || inventory === "amd") {
    const { openHostMachine } = await import("../dra/driver/host/open-machine.ts");
    return openHostMachine({
      kind: inventory,
      root: values["host-root"],
      nvmlLibrary: values["nvml-library"],
      stateFolder: values["state-dir"],
      partitionable: (values["partition-gpus"] ?? "").split(",").filter((name) => name !== ""),
      onWarning: hooks.onWarning,
    });
  }
  const [, nodeType] = /^simulated:(.+)$/.exec(inventory) ?? [];
  if (nodeType === undefined) {
    throw new UsageError(
      `--inventory ${inventory}: write auto, nvidia, amd or simulated:NODE_TYPE, such as simulated:dgx-h100`,
    );
  }
  return openSimulated(values, nodeName, nodeType, hooks.onEffect);
}

async function openSimulated(
  values: FlagValues<typeof flags>,
  nodeName: string,
  nodeType: string,
  onEffect: OnEffect,
): Promise<Machine> {
  const [{ parseFleet }, { standaloneNode, simulatedGpus }, { openSimulatedMachine }] = await Promise.all([
    import("../simulator/fleet.ts"),
    import("../simulator/objects.ts"),
    import("../simulator/machine.ts"),
  ]);
  const file = values.fleet ?? fileURLToPath(new URL("../../fleets/default.yaml", import.meta.url));
  const { nodeTypes } = parseFleet(await readFile(file, "utf8"), file);
  const type = nodeTypes.find(({ name }) => name === nodeType);
  if (type === undefined) {
    const names = nodeTypes.map(({ name }) => name).join(", ");
    throw new UsageError(`--inventory ${values.inventory}: ${file} has no node type ${nodeType}; use one of ${names}`);
  }
  const hardware = join(values["state-dir"], "simulated-machine.json");
  return openSimulatedMachine(simulatedGpus(standaloneNode(nodeName, type)), hardware, onEffect);
}
