import { writeFile } from "node:fs/promises";
import { defineCommand } from "./command.ts";
import { serviceFlags } from "./service.ts";

export const snapshotCommand = defineCommand({
  name: "snapshot",
  summary: "Dump what the planner sees of a live cluster, for plan --snapshot.",
  description:
    "Writes nodes, slices, device taint rules, device classes, topologies, groups, gangs, pods, claims and PodDisruptionBudgets of a live cluster, all as they were at one instant, as a List of objects in JSON: kllama plan --snapshot makes of it what the planner would have made of the cluster then, and kubectl can read it. Only what plans rest on is kept: no environment, arguments, volumes, annotations or managed fields, and no Secrets. Works with the caller's own rights, which must allow to list those kinds.",
  flags: {
    kubeconfig: serviceFlags.kubeconfig,
    output: {
      type: "string",
      short: "o",
      value: "FILE",
      describe: "File to write. Default: stdout.",
    },
    placements: {
      type: "boolean",
      describe: "Write where everything is, and why not, instead: placements and rejections, as plan -o json.",
    },
  },
  examples: [
    {
      what: "Keep an incident, and play it again",
      command: "kllama snapshot -o now.json && kllama plan --snapshot now.json --explain",
    },
    { what: "Where everything is", command: "kllama snapshot --placements" },
  ],
  async run(values, streams) {
    const [{ createClient }, { loadConnection }] = await Promise.all([
      import("../kube/client.ts"),
      import("../kube/connection.ts"),
    ]);
    const connection = await loadConnection({ kubeconfigPath: values.kubeconfig });
    const client = createClient(connection, { userAgent: "kllama-snapshot" });
    const warn = (text: string): void => void streams.stderr.write(`kllama snapshot: ${text}\n`);
    try {
      const { placementsText, snapshotText } = await import("./snapshot/texts.ts");
      const text = values.placements === true ? await placementsText(client, warn) : await snapshotText(client, warn);
      if (values.output === undefined) streams.stdout.write(text);
      else await writeFile(values.output, text);
      return 0;
    } finally {
      await client.close();
    }
  },
});
