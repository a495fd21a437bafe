import type { ModelView } from "../topology/model.ts";
import type { PreparedUnit } from "./prepare.ts";
import { buildProblem, type Problem, type Rule, type Slot } from "./problem.ts";
import { search } from "./search.ts";

/** Pods and rules that have no place together. */
export interface Conflict {
  readonly slots: readonly Slot[];
  readonly rules: readonly Rule[];
  /** Without any one of its pod sets or rules there is a place. */
  readonly smallest: boolean;
  /** As many of the pods, from the first on, have a place under the rules. */
  readonly fitting: number;
}

/** What one search for a smaller conflict may spend, and how many values all of them may take. */
const searchBudget = 1_000;
const totalValues = 20_000;

/** The problem of some of a unit's pods under some of its rules. */
export function problemOf(
  view: ModelView,
  unit: PreparedUnit,
  slots: readonly Slot[],
  rules: readonly Rule[],
): Problem {
  const { pins, fabric, tableOf } = unit;
  return buildProblem({ view, slots, pins, decided: [], rules, fabric, tableOf });
}

/**
 * The smallest part of a unit that is impossible by itself, for a unit that is: gangs, then pod sets, then rules are
 * left out one after the other, and stay out where what is left is still impossible.
 */
export function smallestConflict(view: ModelView, unit: PreparedUnit): Conflict {
  let values = 0;
  let smallest = true;
  const outcome = (slots: readonly Slot[], rules: readonly Rule[]) => {
    if (values > totalValues) return "budget";
    const result = search(problemOf(view, unit, slots, rules), searchBudget);
    values += result.explored;
    return result.kind;
  };
  let slots = unit.base;
  let rules = unit.rules.filter((rule) => rule.required);
  const isImpossible = (fewerSlots: readonly Slot[], fewerRules: readonly Rule[]) => {
    const kind = outcome(fewerSlots, fewerRules);
    if (kind === "budget") smallest = false;
    return kind === "impossible";
  };
  for (const nameOf of [gangName, podSetName]) {
    for (const name of new Set(slots.map(nameOf))) {
      const fewer = slots.filter((slot) => nameOf(slot) !== name);
      if (fewer.length > 0 && fewer.length < slots.length && isImpossible(fewer, rules)) slots = fewer;
    }
  }
  for (const rule of rules) {
    const fewer = rules.filter((each) => each !== rule);
    const concerns = slots.some((slot) => rule.setOf(slot) !== undefined);
    if (!concerns || isImpossible(slots, fewer)) rules = fewer;
  }
  let fitting = 0;
  let failing = slots.length;
  while (failing - fitting > 1) {
    const middle = Math.floor((fitting + failing) / 2);
    if (outcome(slots.slice(0, middle), rules) === "found") fitting = middle;
    else failing = middle;
  }
  // What a spread asks of some pods is not less than what it asks of more.
  if (rules.some(({ kind }) => kind === "spread")) smallest = false;
  return { slots, rules, smallest, fitting };
}

function gangName({ gang }: Slot): string {
  return `${gang}`;
}

function podSetName({ gang, podSet }: Slot): string {
  return `${gang}/${podSet}`;
}
