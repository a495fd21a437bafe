import process from "node:process";
import { text } from "node:stream/consumers";
import { driverName } from "../api/names.ts";
import { defineCommand, UsageError } from "./command.ts";
import { serviceFlags } from "./service.ts";

export const capacityCommand = defineCommand({
  name: "capacity",
  summary: "Ask whether something fits now, how often and where, before any pod of it exists.",
  description:
    "Reads LLMClusters, Gangs with their pods, PlacementGroups, StatefulSets, Deployments or single pods from YAML or JSON files and says of each whether it can be placed whole on what is free now, how often, where, and if not, why; and which devices are free, by class and product, by how many a node has together, and by domain. It is the planner that says so, by placing copy after copy: what holds a place keeps it, what else waits in a queue is left out, and an elastic gang, which counts where its minCount fits, takes as many more as do. Nothing is changed.\n\nThe cluster is the live one that the kubeconfig leads to, unless there is one in the files (a Node), in a snapshot or in a fleet. What is asked about need not be new: an object that the live cluster has as well is asked about once more.\n\nExit codes: 0 all of it fits at least once, 3 something does not, 2 some input could not be used: stderr names file, line and reason, and the rest is answered all the same.",
  operand: "PATH",
  manyOperands: true,
  flags: {
    filename: {
      type: "string",
      short: "f",
      value: "PATH",
      multiple: true,
      describe:
        "What to ask about: YAML or JSON file, folder of them, or - for stdin. Default: nothing, which tells what is free. Paths without the flag count as well.",
    },
    kubeconfig: serviceFlags.kubeconfig,
    snapshot: {
      type: "string",
      value: "FILE",
      describe: "A cluster as kllama snapshot wrote it, instead of the live one.",
    },
    fleet: {
      type: "string",
      value: "FILE",
      describe: "An empty fleet of simulated machines, such as fleets/default.yaml, instead of the live cluster.",
    },
    limit: {
      type: "string",
      value: "COUNT",
      default: "20",
      describe: "Copies after which no more are tried; the answer then says at least.",
    },
    output: {
      type: "string",
      short: "o",
      value: "FORMAT",
      default: "table",
      describe: "What stdout gets: table or json. All else goes to stderr.",
    },
    "managed-driver": {
      type: "string",
      value: "DRIVER",
      multiple: true,
      describe: `DRA driver whose devices kllama allocates. Default: ${driverName}.`,
    },
  },
  examples: [
    { what: "How many more of these does the live cluster hold?", command: "kllama capacity -f llama.yaml" },
    { what: "What is free, by class, shape and domain", command: "kllama capacity" },
    {
      what: "Of machines that are yet to be bought",
      command: "kllama capacity --fleet fleets/default.yaml -f examples/prefill-decode.yaml",
    },
    {
      what: "Without a cluster, on files that describe one",
      command: "kllama capacity -f examples/plan/",
    },
  ],
  async run(values, streams, ...operands) {
    const { output, snapshot, fleet } = values;
    if (output !== "table" && output !== "json") {
      throw new UsageError(`--output ${output} is not a format; use table or json`);
    }
    if (snapshot !== undefined && values.kubeconfig !== undefined) {
      throw new UsageError("--snapshot and --kubeconfig both name a cluster; give one of them");
    }
    const { runCapacity } = await import("./capacity/run-capacity.ts");
    return runCapacity({
      paths: [...(values.filename ?? []), ...operands],
      snapshot,
      fleet,
      live: () => readLive(values.kubeconfig, (text) => streams.stderr.write(`kllama capacity: ${text}\n`)),
      output,
      limit: parseLimit(values.limit),
      managedDrivers: values["managed-driver"] ?? [driverName],
      stdin: () => text(process.stdin),
      streams,
    });
  },
});

/** Copies are placements in memory: there is an end to them. */
const maxLimit = 1000;

function parseLimit(text: string): number {
  const limit = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= maxLimit) return limit;
  throw new UsageError(`--limit ${text} is not a whole number from 1 to ${maxLimit}`);
}

async function readLive(kubeconfigPath: string | undefined, warn: (text: string) => void) {
  const [{ createClient }, { loadConnection }, { readCluster }] = await Promise.all([
    import("../kube/client.ts"),
    import("../kube/connection.ts"),
    import("./live-cluster.ts"),
  ]);
  const client = createClient(await loadConnection({ kubeconfigPath }), { userAgent: "kllama-capacity" });
  try {
    return await readCluster(client, warn);
  } finally {
    await client.close();
  }
}
