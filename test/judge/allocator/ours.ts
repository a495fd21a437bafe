import type { AllocationResult } from "../../../src/api/kubernetes.ts";
import { allocateOnNode, isAllocationFailure } from "../../../src/dra/allocator/allocate.ts";
import { type CompiledClaim, compileClaim, isClaimProblem } from "../../../src/dra/allocator/claim.ts";
import { placedDevice, toAllocation } from "../../../src/dra/allocator/result.ts";
import {
  projectClaim,
  projectDeviceClass,
  projectNode,
  projectSlice,
  projectTaintRule,
} from "../../../src/kube/project.ts";
import type { NodeInventory } from "../../../src/topology/inventory.ts";
import { type ClusterModel, createClusterModel } from "../../../src/topology/model.ts";
import type { AllocationQuestion } from "./judge.ts";
import { gpuDriver, nicDriver } from "./pools.ts";

export type OurAnswer =
  | { readonly verdict: "allocated"; readonly allocations: readonly AllocationResult[] }
  | { readonly verdict: "refused"; readonly reason: string; readonly message: string };

/** kllama's answer to the same question, by the way that a live cluster takes: projection, model, ledger, allocator. */
export function allocateOurs(question: AllocationQuestion): OurAnswer {
  const { node, claims } = question;
  const { view } = modelOf(question);
  const index = view.indexOf(node.metadata.name)!;
  const compiled: CompiledClaim[] = [];
  for (const claim of claims) {
    const result = compileClaim(claim.spec, view.deviceClasses, view.managedDrivers);
    if (isClaimProblem(result)) return { verdict: "refused", reason: result.reason, message: result.message };
    compiled.push(result);
  }
  const inventory = view.inventory(index);
  const choice = allocateOnNode(inventory, view.usage(index), compiled, { budget: 1_000_000 });
  if (isAllocationFailure(choice)) return { verdict: "refused", reason: choice.reason, message: choice.message };
  const allocations = choice.claims.map(({ devices }, position) => {
    const { spec, metadata } = claims[position]!;
    const placed = devices.map((each) => {
      const device = inventory.devices[each.device]!;
      return { ...placedDevice(device, each, metadata.uid ?? ""), device };
    });
    return toAllocation(spec, view.deviceClasses, placed, node.metadata.name, "2026-11-21T08:00:00Z");
  });
  return { verdict: "allocated", allocations };
}

function modelOf({ node, slices, rules, classes, allocated }: AllocationQuestion): ClusterModel {
  const model = createClusterModel({ managedDrivers: [gpuDriver, nicDriver] });
  model.upsertNode(projectNode(node));
  for (const slice of slices) model.upsertSlice(projectSlice(slice));
  for (const rule of rules) model.upsertTaintRule(projectTaintRule(rule));
  for (const each of classes) model.upsertDeviceClass(projectDeviceClass(each));
  for (const claim of allocated) model.upsertClaim(projectClaim(claim));
  return model;
}

/** What kllama knows of the node's devices. */
export function inventoryOf(question: AllocationQuestion): NodeInventory {
  const { view } = modelOf(question);
  return view.inventory(view.indexOf(question.node.metadata.name)!);
}
