import { defineCommand, UsageError } from "./command.ts";
import type { ReleaseReport } from "./release/release-all.ts";
import { serviceFlags } from "./service.ts";

const flags = {
  kubeconfig: serviceFlags.kubeconfig,
  namespace: {
    type: "string",
    short: "n",
    value: "NAME",
    describe: "Namespace of the pod; default: default. With --all: the only namespace to release; default: all.",
  },
  all: {
    type: "boolean",
    describe: "Release everything that kllama holds: guards on claims, gates on pods. For taking kllama out.",
  },
  "planner-namespace": {
    type: "string",
    value: "NAME",
    default: "kllama-system",
    describe: "Namespace of the planner's Lease: --all is refused while a planner runs.",
  },
} as const;

export const releaseCommand = defineCommand({
  name: "release",
  summary: "Let a pod go whose Gang does not exist, or all that kllama holds.",
  description:
    "With a POD: lifts the gate of a pod that waits for a Gang which does not exist, and removes its gang label, so that it is scheduled alone. A member of a Gang that exists is refused. With --all, for taking kllama out while gangs are there: removes its guards from claims and its gates from pods. What runs goes on running; claims that nothing started with are given back. Works with the caller's own rights: the first needs get and patch on pods; the second also list on pods and resourceclaims, and patch on resourceclaims/status and resourceclaims/binding. Doing it again changes nothing.",
  flags,
  operand: "POD",
  examples: [
    { what: "A pod that says that its Gang does not exist", command: "kllama release worker-0 -n team-a" },
    { what: "Everything, after the planner was stopped", command: "kllama release --all" },
    { what: "One namespace that does not go away", command: "kllama release --all -n team-a" },
  ],
  async run(values, streams, pod) {
    const all = values.all === true;
    if (all === (pod !== undefined)) throw new UsageError("give the name of one pod, or --all");
    const [{ createClient }, { loadConnection }] = await Promise.all([
      import("../kube/client.ts"),
      import("../kube/connection.ts"),
    ]);
    const connection = await loadConnection({ kubeconfigPath: values.kubeconfig });
    const client = createClient(connection, { userAgent: "kllama-release" });
    try {
      if (pod !== undefined) {
        const { releasePod } = await import("./release/release-pod.ts");
        streams.stdout.write(await releasePod(client, values.namespace ?? "default", pod));
        return 0;
      }
      const [{ runningPlanner }, { releaseAll }] = await Promise.all([
        import("./release/planner-check.ts"),
        import("./release/release-all.ts"),
      ]);
      const planner = await runningPlanner(client, values["planner-namespace"], Date.now());
      if (planner !== undefined) {
        throw new Error(
          `planner ${planner} runs and would take hold again of what is let go; stop it and its replicas first, then try again within half a minute`,
        );
      }
      const report = await releaseAll(client, values.namespace);
      streams.stdout.write(reportText(report));
      return report.failures.length === 0 ? 0 : 1;
    } finally {
      await client.close();
    }
  },
});

function reportText({ unguarded, cleared, ungated, marked, failures }: ReleaseReport): string {
  const lines = [
    `claims: ${cleared} given back, ${unguarded} left to the pods that run with them`,
    `pods: ${ungated} let go`,
  ];
  if (marked > 0) {
    lines.push(
      `${marked} of them ask for a marker resource that only kllama's extender answers: delete them once the admission policies are gone, so that their controllers create them without it`,
    );
  }
  return `${[...lines, ...failures.map((failure) => `not released: ${failure}`)].join("\n")}\n`;
}
