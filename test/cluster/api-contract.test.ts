import { install, kubeconfigOf } from "../../src/cli/system/system.ts";
import { createClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import { readHolder } from "../../src/kube/planner-term.ts";
import { waitForPolicies } from "../../src/kube/policy-probes.ts";
import { startControlPlane } from "../../tools/control-plane/control-plane.ts";
import { describeApiContract } from "../support/api-contract.ts";
import { compactEtcd } from "../support/etcd.ts";

const namespace = "contract";

/** No controllers: what happens to objects is what the test does. */
describeApiContract("kube-apiserver keeps the contract", async () => {
  const plane = await startControlPlane({ components: [] });
  const clientOf = async (path: string) => createClient(await loadConnection({ kubeconfigPath: path }));
  const admin = await clientOf(plane.admin.path);
  await install(admin);
  await waitForPolicies(admin);
  await admin.request("POST", resourcePath({ group: "", version: "v1", resource: "namespaces" }), {
    body: { metadata: { name: namespace } },
  });
  await admin.request("POST", resourcePath({ group: "", version: "v1", resource: "serviceaccounts", namespace }), {
    body: { metadata: { name: "default" } },
  });
  const planner = await clientOf(await kubeconfigOf(plane, "planner"));
  return {
    admin,
    planner,
    holder: (await readHolder(planner)).id,
    namespace,
    async compact() {
      await compactEtcd(plane);
      await plane.component("kube-apiserver").restart();
    },
    async close() {
      await Promise.all([admin.close(), planner.close()]);
      await plane.stop();
    },
  };
});
