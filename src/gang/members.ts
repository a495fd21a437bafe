import type { PodRecord } from "../topology/records.ts";

/** Which live pod fills which slot of a gang. */
export interface MemberSlots {
  /** `podSet/index` → pod. */
  slots: Map<string, PodRecord>;
  /** Pod sets that lack pods for their `minCount`. */
  missing: { podSet: string; needed: number; present: number }[];
  /** Members that cannot be given a slot, each as a sentence with its remedy. */
  problems: string[];
}
