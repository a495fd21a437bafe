import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Server, type ServerUnaryCall, type sendUnaryData, status } from "@grpc/grpc-js";
import { type ClaimsRequest, draServices, registrationService } from "../../src/dra/driver/grpc.ts";
import { listenUnix } from "../../src/dra/driver/unix-server.ts";

type Behaviour = "answer" | "fail" | "hang";

/** Another driver's plugin beside ours, with device `other` of pool `other` for whatever claim it is asked about. */
export interface OtherPlugin {
  readonly driver: string;
  behave(behaviour: { prepare?: Behaviour; unprepare?: Behaviour }): void;
  /** `prepare` and `unprepare`, as they arrived. */
  readonly calls: readonly string[];
  close(): Promise<void>;
}

export async function startOtherPlugin(kubeletFolder: string): Promise<OtherPlugin> {
  const driver = "other.example.org";
  const calls: string[] = [];
  const behaviour: { prepare: Behaviour; unprepare: Behaviour } = { prepare: "answer", unprepare: "answer" };
  const method =
    (name: "prepare" | "unprepare", answerFor: (uid: string) => object) =>
    ({ request }: ServerUnaryCall<ClaimsRequest, object>, answer: sendUnaryData<object>): void => {
      calls.push(name);
      if (behaviour[name] === "hang") return;
      if (behaviour[name] === "fail") answer({ code: status.INTERNAL, details: `the other plugin cannot ${name}` });
      else answer(null, { claims: Object.fromEntries(request.claims.map(({ uid }) => [uid, answerFor(uid)])) });
    };
  const plugin = new Server();
  plugin.addService(draServices.get("v1.DRAPlugin")!, {
    NodePrepareResources: method("prepare", (uid) => ({
      devices: [
        {
          request_names: ["other"],
          pool_name: "other",
          device_name: "other",
          cdi_device_ids: [`${driver}/claim=${uid}`],
        },
      ],
    })),
    NodeUnprepareResources: method("unprepare", () => ({})),
  });
  const folder = join(kubeletFolder, "plugins", driver);
  await mkdir(folder, { recursive: true });
  const service = await listenUnix(plugin, join(folder, "dra.sock"));
  const registrar = new Server();
  registrar.addService(registrationService, {
    GetInfo: (_call: unknown, answer: sendUnaryData<object>) =>
      answer(null, {
        ...{ type: "DRAPlugin", name: driver, endpoint: service.path, supported_versions: ["v1.DRAPlugin"] },
      }),
    NotifyRegistrationStatus: (_call: unknown, answer: sendUnaryData<object>) => answer(null, {}),
  });
  const registration = await listenUnix(registrar, join(kubeletFolder, "plugins_registry", `${driver}-reg.sock`));
  return {
    driver,
    behave: (next) => void Object.assign(behaviour, next),
    calls,
    async close() {
      await registration.close(0);
      await service.close(0);
    },
  };
}
