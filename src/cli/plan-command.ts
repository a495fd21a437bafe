import process from "node:process";
import { text } from "node:stream/consumers";
import { driverName } from "../api/names.ts";
import { wantsColor } from "./color.ts";
import { defineCommand, UsageError } from "./command.ts";

export const planCommand = defineCommand({
  name: "plan",
  summary: "Plan without a cluster: where what files describe would go, and why not.",
  description:
    "Reads a cluster and its work from YAML or JSON files and prints where everything pending would be placed, in queue order: priority, then age, then name. Nodes, ResourceSlices, DeviceTaintRules, DeviceClasses, ClusterTopologies, and what bound pods and allocated claims use make the cluster; Pods, Gangs, PlacementGroups, LLMClusters, StatefulSets, Deployments and PodGroups (scheduling.k8s.io, coscheduling, Volcano, KAI) are the work. PodDisruptionBudgets say who cannot be preempted. A pod without a claim gets one from its template. Other kinds are left out. Nothing is asked of a cluster and nothing is changed.\n\nExit codes: 0 all is placed, 3 something is not, 2 some input could not be used: stderr names file, line and reason, and the rest is planned all the same.",
  operand: "PATH",
  manyOperands: true,
  flags: {
    filename: {
      type: "string",
      short: "f",
      value: "PATH",
      multiple: true,
      describe:
        "YAML or JSON file, folder of them, or - for stdin; Lists and several documents in a file will do. Paths without the flag count as well.",
    },
    snapshot: {
      type: "string",
      value: "FILE",
      describe:
        "A live cluster as kllama snapshot wrote it: planned as the planner would, had it begun then, so nothing is made from templates. What --filename adds is planned besides, and replaces objects of the same name.",
    },
    fleet: {
      type: "string",
      value: "FILE",
      describe: "Nodes and ResourceSlices of a fleet of simulated machines, such as fleets/default.yaml.",
    },
    output: {
      type: "string",
      short: "o",
      value: "FORMAT",
      default: "table",
      describe: "What stdout gets: table, json or picture. All else goes to stderr.",
    },
    explain: {
      type: "boolean",
      describe: "With table and picture: what each answer rests on; the JSON always has it.",
    },
    "managed-driver": {
      type: "string",
      value: "DRIVER",
      multiple: true,
      describe: `DRA driver whose devices kllama allocates. Default: ${driverName}.`,
    },
    "no-color": { type: "boolean", describe: "No colours; also when NO_COLOR is set or stdout is no terminal." },
  },
  examples: [
    { what: "A folder of manifests: nodes, slices and work", command: "kllama plan -f examples/plan/" },
    {
      what: "The demo's examples on the demo's fleet, without starting anything",
      command: "kllama plan --fleet fleets/default.yaml -f examples/ -o picture",
    },
    { what: "Why does it not fit?", command: "kllama plan -f cluster.yaml -f work.yaml --explain" },
    {
      what: "What would the live cluster do with one more?",
      command: "kllama plan --snapshot now.json -f more.yaml -o json",
    },
  ],
  async run(values, streams, ...operands) {
    const { output, snapshot, fleet } = values;
    const paths = [...(values.filename ?? []), ...operands];
    if (output !== "table" && output !== "json" && output !== "picture") {
      throw new UsageError(`--output ${output} is not a format; use table, json or picture`);
    }
    if (paths.length === 0 && snapshot === undefined && fleet === undefined) {
      throw new UsageError("nothing to plan; name files with -f, or a dump with --snapshot");
    }
    const { runPlan } = await import("./plan/run-plan.ts");
    return runPlan({
      paths,
      snapshot,
      fleet,
      output,
      explain: values.explain ?? false,
      managedDrivers: values["managed-driver"] ?? [driverName],
      color: wantsColor(values["no-color"] ?? false, streams),
      stdin: () => text(process.stdin),
      streams,
    });
  },
});
