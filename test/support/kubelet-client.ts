import { type Client, credentials, makeClientConstructor, type ServiceError } from "@grpc/grpc-js";
import {
  type ClaimReference,
  type ClaimsResponse,
  type DeviceHealthMessage,
  draServices,
  healthServices,
  type PluginInfo,
  type PrepareAnswer,
  registrationService,
  type UnprepareAnswer,
} from "../../src/dra/driver/grpc.ts";

/** The kubelet's side of the sockets. */
export interface KubeletClient {
  getInfo(): Promise<PluginInfo>;
  notify(status: { plugin_registered: boolean; error: string }): Promise<void>;
  prepare(claims: readonly ClaimReference[], version?: string): Promise<Record<string, PrepareAnswer>>;
  unprepare(claims: readonly ClaimReference[], version?: string): Promise<Record<string, UnprepareAnswer>>;
  /** A call that the kubelet may give up; the answer then rejects. */
  begin(verb: "prepare" | "unprepare", claims: readonly ClaimReference[], deadlineMs?: number): KubeletCall;
  /** Calls `onHealth` with each message until the returned function is called. */
  watchHealth(version: string, onHealth: (devices: DeviceHealthMessage[]) => void): () => void;
  close(): void;
}

interface KubeletCall {
  answer: Promise<Record<string, { error: string }>>;
  cancel(): void;
}

type Answer = (error: ServiceError | null, response: never) => void;
type Call = (request: object, options: { deadline?: number }, answer: Answer) => { cancel(): void };

export function connectKubelet(registration: string, dra: string): KubeletClient {
  const clients: Client[] = [];
  const clientOf = (definition: Parameters<typeof makeClientConstructor>[0], socket: string) => {
    const client = new (makeClientConstructor(definition, ""))(`unix:${socket}`, credentials.createInsecure());
    clients.push(client);
    return client as unknown as Record<string, Call>;
  };
  const call = <T>(client: Record<string, Call>, method: string, request: object): Promise<T> =>
    new Promise((resolve, reject) =>
      client[method]!.call(client, request, {}, (error, response) =>
        error === null ? resolve(response) : reject(error),
      ),
    );
  const registry = clientOf(registrationService, registration);
  const draClients = new Map([...draServices].map(([version, definition]) => [version, clientOf(definition, dra)]));
  const health = new Map([...healthServices].map(([version, definition]) => [version, clientOf(definition, dra)]));
  return {
    getInfo: () => call(registry, "GetInfo", {}),
    notify: (status) => call(registry, "NotifyRegistrationStatus", status),
    async prepare(claims, version = "v1.DRAPlugin") {
      const client = draClients.get(version)!;
      return (await call<ClaimsResponse<PrepareAnswer>>(client, "NodePrepareResources", { claims })).claims;
    },
    async unprepare(claims, version = "v1.DRAPlugin") {
      const client = draClients.get(version)!;
      return (await call<ClaimsResponse<UnprepareAnswer>>(client, "NodeUnprepareResources", { claims })).claims;
    },
    begin(verb, claims, deadlineMs) {
      const client = draClients.get("v1.DRAPlugin")!;
      const method = verb === "prepare" ? "NodePrepareResources" : "NodeUnprepareResources";
      const { promise, resolve, reject } = Promise.withResolvers<Record<string, { error: string }>>();
      const options = deadlineMs === undefined ? {} : { deadline: Date.now() + deadlineMs };
      const call = client[method]!.call(
        client,
        { claims },
        options,
        (error, response: ClaimsResponse<{ error: string }>) =>
          error === null ? resolve(response.claims) : reject(error),
      );
      return { answer: promise, cancel: () => call.cancel() };
    },
    watchHealth(version, onHealth) {
      const client = health.get(version) as unknown as Record<
        string,
        (request: object) => NodeJS.ReadableStream & { cancel(): void }
      >;
      const stream = client["NodeWatchResources"]!({});
      stream.on("data", ({ devices }: { devices: DeviceHealthMessage[] }) => onHealth(devices));
      stream.on("error", () => undefined);
      return () => stream.cancel();
    },
    close() {
      for (const client of clients) client.close();
    },
  };
}
