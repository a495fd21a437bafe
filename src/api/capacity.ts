import type { Placement, Rejection } from "./placement.ts";

/** What `kllama capacity -o json` and the planner's /capacity answer. Fields may be added, never renamed. */
export interface CapacityOutput {
  answers: CapacityAnswer[];
  free: FreeDevices[];
}

/** How often one thing can be placed whole, beside what holds places already and without anything else that waits. */
export interface CapacityAnswer {
  /** What was asked about, by the object that stands for all of it. */
  kind: string;
  namespace: string;
  name: string;
  /** Placed whole, one after another, in one plan: an earlier one may lie elsewhere than it would alone. */
  copies: number;
  /**
   * Why there are no more. `room`: the next one has no place; `limit`: as many as were asked for; `budget`: the search
   * gave up on the next one; `time`: nobody looked for the next one any more. But for `room` there may be more.
   */
  stoppedBy: "room" | "limit" | "budget" | "time";
  /** Per copy: its gangs. */
  placements: Placement[][];
  /** Why there is not one more, with `room` and `budget`. */
  rejections: Rejection[];
}

/** Devices of one kind that could be given now: those of nodes that take no pods, and of tainted devices, are not free. */
export interface FreeDevices {
  deviceClass: string;
  driver: string;
  /** What the driver calls it: product and, of a partition, its profile; empty where it says nothing. */
  product: string;
  /** As many as there would be if nothing were held; of partitions of one GPU, those that can be had together. */
  total: number;
  free: number;
  /** Number of free devices together → nodes that have just so many. */
  nodesByFree: Record<string, number>;
  /** Per level of the default topology, broad to narrow, with hosts and what is inside them; levels without free ones are left out. */
  levels: FreeByLevel[];
}

export interface FreeByLevel {
  level: string;
  /** Number of free devices → domains that have just so many. */
  domainsByFree: Record<string, number>;
  /** The domain with most of them. */
  largest: { domain: string; free: number };
  /** Domains with most of them, at most 64, in this order; by whole path. */
  domains: { domain: string; free: number }[];
}
