import type { CapacityAnswer, CapacityOutput } from "../api/capacity.ts";
import type { ClusterModel } from "../topology/model.ts";
import { capacityOf, type Question } from "./capacity.ts";
import { capacityFigures } from "./capacity-figures.ts";

/** What a request asks about. */
export interface WorkAsked {
  readonly questions: readonly Question[];
  /** What needs no asking. */
  readonly answers: readonly CapacityAnswer[];
  /** Why the request cannot be answered: object, field and remedy. */
  readonly problems: readonly string[];
}

/** A status of HTTP and what to send with it. */
interface DeskReply {
  readonly status: 200 | 400 | 429 | 503;
  readonly body: (CapacityOutput & { viewAgeMs: number }) | { error: string; problems?: readonly string[] };
  readonly retryAfterSeconds?: number;
}

/** Answers what others ask of a planner that is at work. */
export interface CapacityDesk {
  /** @param body what is asked about; undefined: only what is free. */
  answer(body: unknown, copies: number): Promise<DeskReply>;
}

interface DeskOptions {
  readonly model: ClusterModel;
  readonly readWork: (body: unknown) => Promise<WorkAsked>;
  /** Why this replica does not know enough; undefined: it does. */
  readonly notReady: () => string | undefined;
  /** Time since the API server was last heard, of the kind that was heard longest ago. */
  readonly viewAgeMs: () => number;
  readonly nowMs: () => number;
}

/** Nothing else is decided while a question is planned: no plan but the first is begun after this. */
const sliceMs = 50;
/** Search budget of one plan; the planner's own plans have more. */
const budget = 2_000;
/** Questions wait so many times as long as the last one took: the planner keeps most of its time for its own work. */
const pauseFactor = 9;

/**
 * The planner's side of `/capacity`. It plans on the model itself, between two turns of the planner's own, and gives back
 * what it held in the same turn. Of others nothing is told but how much is free: what is asked about is planned in a
 * namespace of its own.
 */
export function createCapacityDesk({ model, readWork, notReady, viewAgeMs, nowMs }: DeskOptions): CapacityDesk {
  let busy = false;
  let nextMs = Number.NEGATIVE_INFINITY;

  async function answer(body: unknown, copies: number): Promise<DeskReply> {
    const work = body === undefined ? { questions: [], answers: [], problems: [] } : await readWork(body);
    if (work.problems.length > 0) {
      return { status: 400, body: { error: work.problems.join("; ").slice(0, 1_000), problems: work.problems } };
    }
    const reason = notReady();
    if (reason !== undefined) return { status: 503, body: { error: reason } };
    const figures = await capacityFigures(model, nowMs);
    if (figures === undefined) return { status: 503, body: { error: "devices change faster than they are counted" } };
    const startMs = nowMs();
    let plans = 0;
    const inTime = (): boolean => plans++ === 0 || nowMs() - startMs <= sliceMs;
    const limits = { copies, budget, inTime };
    const answers = work.questions.map((question) => capacityOf(model, question, limits));
    return {
      status: 200,
      body: {
        answers: [...work.answers, ...answers],
        free: [...figures.free],
        viewAgeMs: Math.round(viewAgeMs()),
      },
    };
  }

  return {
    async answer(body, copies) {
      const startMs = nowMs();
      if (busy || startMs < nextMs) {
        const retryAfterSeconds = Math.max(1, Math.ceil((nextMs - startMs) / 1000));
        const error = `the planner answers one question at a time, and then does its own work; ask again in ${retryAfterSeconds} s`;
        return { status: 429, body: { error }, retryAfterSeconds };
      }
      busy = true;
      try {
        return await answer(body, copies);
      } finally {
        busy = false;
        const endMs = nowMs();
        nextMs = endMs + pauseFactor * (endMs - startMs);
      }
    },
  };
}
