//! Sample data: a building group of six divisions. Amounts are thousands of euros.

pub(crate) struct DivisionInfo {
    pub(crate) id: i64,
    pub(crate) name: &'static str,
    pub(crate) purpose: &'static str,
    /// Shares of the sum spent, in the order of [`CATEGORIES`], in percent.
    pub(crate) shares: [u32; 5],
    /// Shares of the sum spent, in the order of [`MONTHS`], in percent.
    pub(crate) months: [u32; 8],
}

pub(crate) const CATEGORIES: [&str; 5] = ["Labour", "Materials", "Subcontractors", "Equipment", "Overheads"];
pub(crate) const MONTHS: [&str; 8] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug"];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    OnTrack,
    AtRisk,
    Late,
    Done,
}

#[derive(Clone, Copy)]
pub(crate) struct Project {
    pub(crate) division: i64,
    pub(crate) name: &'static str,
    pub(crate) place: &'static str,
    pub(crate) lead: &'static str,
    pub(crate) due: (u16, u8),
    pub(crate) progress: u32,
    pub(crate) budget: u32,
    pub(crate) spent: u32,
    pub(crate) state: State,
}

pub(crate) const DIVISIONS: [DivisionInfo; 6] = [
    DivisionInfo {
        id: 0,
        name: "Head office",
        purpose: "Shared services and programmes for the whole group",
        shares: [46, 8, 22, 6, 18],
        months: [11, 12, 12, 13, 12, 13, 14, 13],
    },
    DivisionInfo {
        id: 1,
        name: "Residential",
        purpose: "Homes, from the first sketch to the keys",
        shares: [31, 34, 21, 8, 6],
        months: [7, 8, 11, 13, 15, 16, 16, 14],
    },
    DivisionInfo {
        id: 2,
        name: "Commercial",
        purpose: "Offices, shops and hotels",
        shares: [26, 31, 29, 8, 6],
        months: [10, 11, 12, 12, 14, 13, 14, 14],
    },
    DivisionInfo {
        id: 3,
        name: "Infrastructure",
        purpose: "Roads, rail and water",
        shares: [24, 29, 18, 24, 5],
        months: [6, 7, 10, 14, 15, 17, 16, 15],
    },
    DivisionInfo {
        id: 4,
        name: "Energy",
        purpose: "Wind, solar and storage",
        shares: [18, 47, 17, 14, 4],
        months: [9, 8, 10, 12, 13, 14, 16, 18],
    },
    DivisionInfo {
        id: 5,
        name: "Facilities",
        purpose: "The upkeep of what the group has built",
        shares: [52, 14, 17, 9, 8],
        months: [13, 13, 13, 12, 12, 12, 12, 13],
    },
];

pub(crate) const PROJECTS: [Project; 22] = [
    project(0, "One ledger for the group", "Hamburg", "I. Brandt", (2027, 3), 58, 2_400, 1_310, State::OnTrack),
    project(0, "Safety training 2026", "All sites", "K. Osei", (2026, 12), 71, 620, 455, State::OnTrack),
    project(0, "New headquarters, fit-out", "Hamburg", "M. Lindqvist", (2026, 11), 83, 3_850, 3_690, State::AtRisk),
    project(1, "Lindenhof, 64 homes", "Leipzig", "A. Moreau", (2027, 5), 47, 14_200, 6_480, State::OnTrack),
    project(1, "Canal Row, phase 2", "Bremen", "T. Nowak", (2026, 10), 92, 9_600, 9_150, State::OnTrack),
    project(1, "Orchard Terraces", "Kassel", "S. Marin", (2027, 2), 39, 7_300, 3_870, State::Late),
    project(1, "Student housing, North Campus", "Jena", "A. Moreau", (2026, 8), 100, 5_400, 5_280, State::Done),
    project(2, "Harbour Exchange", "Kiel", "J. Petersen", (2027, 9), 28, 31_500, 8_730, State::OnTrack),
    project(2, "Arcade Quarter, refurbishment", "Erfurt", "N. Haddad", (2026, 12), 66, 11_800, 8_940, State::AtRisk),
    project(2, "Hotel Belvedere", "Lübeck", "J. Petersen", (2027, 4), 51, 18_200, 9_120, State::OnTrack),
    project(2, "Parcel hub, hall C", "Hanover", "E. Sørensen", (2026, 7), 100, 6_900, 6_640, State::Done),
    project(3, "Ring road bridge 7", "Magdeburg", "R. Castellano", (2027, 8), 34, 22_400, 8_310, State::Late),
    project(3, "Tram line 4, eastern arm", "Rostock", "L. Fischer", (2028, 1), 22, 41_000, 9_050, State::OnTrack),
    project(3, "Waterworks renewal", "Göttingen", "R. Castellano", (2026, 11), 78, 8_700, 6_520, State::OnTrack),
    project(3, "Station forecourt", "Halle", "D. Aydin", (2027, 1), 60, 5_100, 3_340, State::AtRisk),
    project(4, "Norderfeld wind farm", "Norderfeld", "H. Jansen", (2027, 6), 44, 36_800, 17_200, State::OnTrack),
    project(4, "Grid battery, 40 MWh", "Cuxhaven", "P. Ilves", (2026, 10), 88, 15_300, 13_090, State::OnTrack),
    project(4, "Solar roofs for schools", "Thuringia", "C. Meyer", (2027, 3), 53, 4_200, 2_050, State::OnTrack),
    project(4, "Heat network, old town", "Weimar", "P. Ilves", (2027, 10), 19, 12_600, 3_110, State::AtRisk),
    project(5, "Hospital maintenance, lot 2", "Brunswick", "Y. Kaplan", (2026, 12), 69, 3_300, 2_240, State::OnTrack),
    project(5, "Lift renewal programme", "42 sites", "B. Rossi", (2027, 2), 57, 1_950, 1_080, State::OnTrack),
    project(5, "Roof repairs after the storm", "Kiel", "Y. Kaplan", (2026, 10), 48, 870, 610, State::Late),
];

#[expect(clippy::too_many_arguments, reason = "a row of the table above")]
const fn project(
    division: i64,
    name: &'static str,
    place: &'static str,
    lead: &'static str,
    due: (u16, u8),
    progress: u32,
    budget: u32,
    spent: u32,
    state: State,
) -> Project {
    Project { division, name, place, lead, due, progress, budget, spent, state }
}
