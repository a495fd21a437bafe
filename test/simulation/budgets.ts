import type { Pod, PodDisruptionBudget } from "../../src/api/kubernetes.ts";
import { gangLabel } from "../../src/api/names.ts";
import { namespace, type Parts } from "./parts.ts";
import { budgetObject, type GangSketch } from "./sketch.ts";

/** Budgets of gangs that have one, and their controller: what they allow follows their pods, some time later. */
export function keepBudgets({ api, clock, random }: Parts, gangs: readonly GangSketch[]): void {
  const { store } = api;
  const protectedGangs = gangs.filter(({ minAvailable }) => minAvailable !== undefined);
  if (protectedGangs.length === 0) return;
  let looking = false;
  for (const gang of protectedGangs) {
    const metadata = { ...budgetObject(gang).metadata, uid: `budget-${gang.name}`, resourceVersion: "", generation: 1 };
    put({ ...budgetObject(gang), metadata, status: { observedGeneration: 1, disruptionsAllowed: 0 } });
  }
  store.onCommit(({ resource }) => {
    if (resource !== "pods" || looking) return;
    looking = true;
    clock.after(random.between(5, 500), () => {
      looking = false;
      for (const gang of protectedGangs) look(gang);
    });
  });

  function put(budget: PodDisruptionBudget): void {
    store.put("poddisruptionbudgets", `${namespace}/${budget.metadata.name}`, budget as never, "disruption-controller");
  }

  function look({ name, minAvailable = 0 }: GangSketch): void {
    const budget = store.get("poddisruptionbudgets", `${namespace}/${name}`) as PodDisruptionBudget | undefined;
    if (budget === undefined) return;
    const pods = [...store.all("pods").values()] as unknown as Pod[];
    const healthy = pods.filter(
      (pod) =>
        pod.metadata.labels?.[gangLabel] === name && pod.metadata.deletionTimestamp === undefined && isReadyPod(pod),
    );
    const disruptionsAllowed = Math.max(0, healthy.length - minAvailable);
    if (budget.status?.disruptionsAllowed !== disruptionsAllowed) {
      put({ ...budget, status: { observedGeneration: 1, disruptionsAllowed } });
    }
  }
}

function isReadyPod({ status }: Pod): boolean {
  return status?.conditions?.some(({ type, status: is }) => type === "Ready" && is === "True") ?? false;
}
