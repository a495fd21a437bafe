import { defineCommand } from "./command.ts";
import { createLog, processIdentity, serve, serviceFlags } from "./service.ts";

export const operatorCommand = defineCommand({
  name: "operator",
  summary: "Run the operator: turns LLMClusters into pods, claims and gangs.",
  description:
    "Watches LLMClusters and brings about what each asks for: Services, a StatefulSet, a ResourceClaimTemplate, a Gang and a PodDisruptionBudget; and tells its state in the status. Several may run at once.",
  flags: serviceFlags,
  examples: [{ what: "With an account of its own", command: "kllama operator --kubeconfig operator.kubeconfig" }],
  async run(values, _streams) {
    const log = createLog("operator", values["log-level"]);
    return serve(log, async () => {
      const [{ startOperator }, { createClient }, { loadConnection }] = await Promise.all([
        import("../serving/controller.ts"),
        import("../kube/client.ts"),
        import("../kube/connection.ts"),
      ]);
      const client = createClient(await loadConnection({ kubeconfigPath: values.kubeconfig }), {
        userAgent: "kllama-operator",
      });
      const operator = startOperator({ client, log, instance: processIdentity() });
      return {
        ready: operator.synced,
        async stop() {
          await operator.stop();
          await client.close();
        },
      };
    });
  },
});
