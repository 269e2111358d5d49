//! The configuration: one TOML file into plain settings, and the check that nobody else could have written what we
//! trust. It may read the configuration file and the owners and modes of what it names, nothing else.

mod dynamic;
mod initial;
mod keeper;
mod limits;
mod load;
mod ownership;
mod remote;
mod settings;
mod vault;

pub use initial::{InitialPaths, config_text, policy_text};
pub use keeper::KeeperSettings;
pub use limits::LimitSettings;
pub use ownership::{Trusted, check_login_files, check_owner, check_ownership};
pub use remote::{CacheSettings, RemoteSettings};
pub use settings::{
    AuditSettings, Config, ControlSettings, DEFAULT_CONFIG, Durability, KeySetting, LocalSettings,
    PolicySettings, StoreKind, StoreSettings,
};
pub use vault::VaultSettings;

#[cfg(test)]
mod tests;
